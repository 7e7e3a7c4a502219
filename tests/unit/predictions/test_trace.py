"""When two values are one to a model, and which folder is listed for many files."""

import pytest

from gristmill.predictions.trace import same_value
from gristmill.predictions.traced_files import look_at_files


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (None, None),
        (None, "NaN"),
        ("a", "a"),
        (True, 1),
        ("2020-01-31T12:00:00Z", "2020-01-31T12:00:00+00:00"),
        ("2020-01-31T12:00:00.500000+00:00", "2020-01-31T12:00:00.5+00:00"),
        ("2020-01-31T12:00:00", "2020-01-31T13:00:00+01:00"),
    ],
)
def test_what_a_model_sees_as_the_same_does_not_differ(one, other):
    assert same_value(one, other)
    assert same_value(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (0, None),
        ("", None),
        ("1", 1),
        ("a", "A"),
        ("2020-01-31", "2020-02-01"),
        ("20200131", "2020-01-31"),
        ("2020-01-31T12:00:00Z", "2020-01-31T12:00:01Z"),
        ("a longer text", "another longer one"),
    ],
)
def test_what_a_model_may_tell_apart_differs(one, other):
    assert not same_value(one, other)
    assert not same_value(other, one)


class Listed:
    """A bucket that remembers which folder it was asked for."""

    url = "memory"
    asked = None

    def list(self, prefix=""):
        self.asked = prefix
        return []


@pytest.mark.parametrize(
    ("files", "folder"),
    [
        (["a/b/1.csv", "a/b/2.csv", "a/b/3.csv", "a/b/4.csv"], "a/b"),
        (["a/b/1.csv", "a/c/2.csv", "a/b/3.csv", "a/b/c/4.csv"], "a"),
        (["sales/1.csv", "sales/2.csv", "sales/3.csv", "other.csv"], ""),
        (["ab/1.csv", "ac/2.csv", "ad/3.csv", "ae/4.csv"], ""),
    ],
)
def test_of_many_files_the_innermost_common_folder_is_listed(files, folder):
    bucket = Listed()
    rows = [
        {"load": number, "table_name": "sales", "period": str(number), "file": file, "etag": "e",
         "loaded_at": None, "undone_at": None, "dropped_at": None, "shown": number}
        for number, file in enumerate(files)
    ]  # fmt: skip
    loads, problems = look_at_files(rows, bucket)
    assert bucket.asked == folder
    assert ([load.file_now for load in loads], problems) == (["gone"] * 4, [])
