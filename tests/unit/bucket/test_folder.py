"""A folder as a bucket: what an etag notices, where links may lead."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gristmill.bucket.folder import Folder
from gristmill.errors import BucketError, ObjectChanged, ObjectNotFound


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = (tmp_path / "bucket").resolve()
    folder.mkdir()
    return folder


def read(bucket: Folder, path: str) -> bytes:
    return b"".join(bucket.stream(bucket.stat(path)))


def receive(chunks: Iterator[memoryview], received: bytearray) -> None:
    for chunk in chunks:
        received += chunk


def test_each_rewriting_at_once_and_of_equal_size_has_its_own_etag(root: Path) -> None:
    bucket = Folder(root=root)
    etags = set()
    for number in range(10):
        (root / "a.csv").write_bytes(b"%d" % number)
        etags.add(bucket.stat("a.csv").etag)

    assert len(etags) == 10


def test_a_rewriting_that_sets_the_old_date_is_noticed(root: Path) -> None:
    bucket = Folder(root=root)
    file = root / "a.csv"
    file.write_bytes(b"one")
    before = bucket.stat("a.csv")
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    after = bucket.stat("a.csv")

    assert (after.size, after.modified_at) == (before.size, before.modified_at)
    assert after.etag != before.etag
    with pytest.raises(ObjectChanged, match=r"a\.csv"):
        list(bucket.stream(before))


def test_the_etag_of_an_untouched_file_stays(root: Path) -> None:
    (root / "a.csv").write_bytes(b"one")
    first = Folder(root=root).stat("a.csv")
    assert read(Folder(root=root), "a.csv") == b"one"

    assert Folder(root=root).stat("a.csv") == first
    assert Folder(root=root).list() == [first]


def test_a_file_rewritten_in_place_while_it_is_read_is_noticed(root: Path) -> None:
    bucket = Folder(root=root)
    (root / "a.csv").write_bytes(b"x" * 1000)
    chunks = bucket.stream(bucket.stat("a.csv"), chunk_size=100)
    next(chunks)
    (root / "a.csv").write_bytes(b"y" * 1000)

    with pytest.raises(ObjectChanged):
        list(chunks)


@pytest.mark.parametrize("change", [b"x" * 999, b"x" * 1001, b""])
def test_a_file_cut_or_grown_while_it_is_read_is_noticed(root: Path, change: bytes) -> None:
    bucket = Folder(root=root)
    (root / "a.csv").write_bytes(b"x" * 1000)
    chunks = bucket.stream(bucket.stat("a.csv"), chunk_size=100)
    received = bytearray(next(chunks))
    (root / "a.csv").write_bytes(change)

    with pytest.raises(ObjectChanged):
        receive(chunks, received)
    assert len(received) <= 1000


def test_a_file_replaced_while_it_is_read_is_read_to_its_end(root: Path) -> None:
    bucket = Folder(root=root)
    (root / "a.csv").write_bytes(b"x" * 1000)
    (root / "new").write_bytes(b"y" * 1000)
    chunks = bucket.stream(bucket.stat("a.csv"), chunk_size=100)
    received = bytearray(next(chunks))
    (root / "new").rename(root / "a.csv")
    receive(chunks, received)

    assert received == b"x" * 1000
    assert read(bucket, "a.csv") == b"y" * 1000


def test_links_inside_the_folder_are_followed(root: Path) -> None:
    (root / "2020").mkdir()
    (root / "2020" / "a.csv").write_bytes(b"one")
    (root / "latest").symlink_to("2020")
    (root / "b.csv").symlink_to(root / "2020" / "a.csv")
    bucket = Folder(root=root)

    assert [item.path for item in bucket.list()] == ["2020/a.csv", "b.csv", "latest/a.csv"]
    assert read(bucket, "b.csv") == read(bucket, "latest/a.csv") == b"one"


def test_links_that_lead_out_are_refused(root: Path) -> None:
    (root.parent / "secret.csv").write_bytes(b"secret")
    (root / "inner.csv").symlink_to("../secret.csv")
    bucket = Folder(root=root)

    with pytest.raises(BucketError, match=r"inner\.csv.*leads out of it"):
        bucket.list()
    with pytest.raises(BucketError, match=r"inner\.csv.*leads out of it"):
        bucket.stat("inner.csv")


def test_linked_folders_that_lead_out_are_refused(root: Path) -> None:
    (root.parent / "outside").mkdir()
    (root / "sales").symlink_to("../outside")

    with pytest.raises(BucketError, match=r"'sales'.*leads out of it"):
        Folder(root=root).list()


def test_a_linked_folder_that_holds_itself_ends(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x.csv").write_bytes(b"one")
    (root / "a" / "b" / "up").symlink_to("..")
    (root / "a" / "b" / "here").symlink_to(".")
    (root / "turn").symlink_to("turn")

    assert [item.path for item in Folder(root=root).list()] == ["a/b/x.csv"]


def test_what_is_no_file_is_left_out(root: Path) -> None:
    os.mkfifo(root / "pipe.csv")
    (root / "broken.csv").symlink_to("nowhere")
    (root / "folder.csv").mkdir()
    (root / "a.csv").write_bytes(b"")
    (root / os.fsdecode(b"not-utf-8-\xff.csv")).write_bytes(b"x")
    bucket = Folder(root=root)

    assert [item.path for item in bucket.list()] == ["a.csv"]
    for path in ("pipe.csv", "broken.csv", "folder.csv", "a.csv/b.csv"):
        with pytest.raises(ObjectNotFound):
            bucket.stat(path)


def test_a_missing_folder_is_named_with_what_to_do(tmp_path: Path) -> None:
    bucket = Folder(root=tmp_path / "nowhere")

    with pytest.raises(BucketError, match=r"nowhere.*no such folder.*GRISTMILL_SOURCE"):
        bucket.list()
    with pytest.raises(BucketError, match="no such folder"):
        bucket.stat("a.csv")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"")

    with pytest.raises(BucketError, match="not a folder"):
        Folder(root=tmp_path / "a.csv").list()
