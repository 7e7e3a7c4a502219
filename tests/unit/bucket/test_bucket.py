"""Which source means which bucket, and which are refused before anything is reached."""

from pathlib import Path

import pytest

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import BucketError


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("data", "{root}/data"),
        (".", "{root}"),
        ("./with space/é", "{root}/with space/é"),
        ("../beside", "{parent}/beside"),
        ("/srv/data", "/srv/data"),
        ("file:///srv/my%20data", "/srv/my data"),
        ("file://localhost/srv", "/srv"),
        ("C:", "{root}/C:"),
    ],
)
def test_a_folder_is_found_from_the_project_file(
    tmp_path: Path, source: str, expected: str
) -> None:
    bucket = open_bucket(source, root=tmp_path)

    assert bucket.url == expected.format(root=tmp_path, parent=tmp_path.parent)


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("s3://mine", "s3://mine"),
        ("s3://mine/", "s3://mine"),
        ("S3://mine/a/b/", "s3://mine/a/b"),
        ("s3://mine/a b/é#1?x", "s3://mine/a b/é#1?x"),
        ("gs://mine/a", "gs://mine/a"),
        ("az://mine", "az://mine"),
    ],
)
def test_an_object_store_is_named_by_its_address(tmp_path: Path, source: str, url: str) -> None:
    assert open_bucket(source, root=tmp_path).url == url


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("ftp://host/data", "ftp://"),
        ("s3://", "s3://BUCKET"),
        ("s3:///folder", "s3://BUCKET"),
        ("s3://mine/../other", "not a path inside a bucket"),
        ("file://server/share", "three slashes"),
    ],
)
def test_what_is_no_bucket_is_refused_with_what_to_write(
    tmp_path: Path, source: str, said: str
) -> None:
    with pytest.raises(BucketError, match=said):
        open_bucket(source, root=tmp_path)


def test_keys_in_the_address_are_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(BucketError, match="without keys") as refusal:
        open_bucket("s3://AKIAEXAMPLE:verysecret@mine/data", root=tmp_path)

    assert "verysecret" not in str(refusal.value)


def test_secrets_are_not_in_what_a_bucket_prints(tmp_path: Path) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "verysecret"}

    assert "verysecret" not in repr(open_bucket("s3://mine", root=tmp_path, options=keys))


def test_half_a_pair_of_keys_is_refused(tmp_path: Path) -> None:
    options = {"AWS_ACCESS_KEY_ID": "id", "AWS_REGION": "us-east-1"}
    bucket = open_bucket("s3://mine", root=tmp_path, options=options)

    with pytest.raises(BucketError, match="AWS_SECRET_ACCESS_KEY is not"):
        bucket.list()
