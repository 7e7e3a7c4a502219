"""The sample bucket: its files, its planted signal, and that it is whole or absent."""

import csv
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import date
from hashlib import sha256
from itertools import pairwise
from math import exp
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gristmill.bucket.sample import _auc, write_sample
from gristmill.errors import BucketError

Row = dict[str, str]


def read(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.csv"))
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "bucket"
    write_sample(folder, customers=3000, months=3)
    return folder


def test_the_files_are_those_of_the_mission(folder: Path) -> None:
    headers = {path: (folder / path).read_text().partition("\n")[0] for path in digests(folder)}

    assert headers == {
        "customer_profiles.csv": "idx,attr_a,attr_b",
        "customer_activity.csv": "idx,valid_from,valid_to,scd_a,scd_b",
        "labels.csv": "idx,label",
        "stores.csv": "idx,location",
        "sales/2025-10-01/sales.csv": "store_idx,date,value",
        "sales/2025-11-01/sales.csv": "store_idx,date,value",
        "sales/2025-12-01/sales.csv": "store_idx,date,value",
    }


def test_the_clients_of_a_full_sample_include_the_one_of_the_request(tmp_path: Path) -> None:
    write_sample(tmp_path / "bucket", customers=50_001, months=1)

    assert read(tmp_path / "bucket" / "customer_profiles.csv")[-1]["idx"] == "150000"


def test_profiles_are_one_for_each_client(folder: Path) -> None:
    rows = read(folder / "customer_profiles.csv")

    assert [int(row["idx"]) for row in rows] == list(range(100_000, 103_000))
    assert {row["attr_a"] for row in rows} == set("12345")
    assert {row["attr_b"] for row in rows} == set("abcde")


def test_histories_are_in_order_with_gaps_and_end_open(folder: Path) -> None:
    histories: dict[str, list[Row]] = defaultdict(list)
    for row in read(folder / "customer_activity.csv"):
        histories[row["idx"]].append(row)
    gaps = 0
    for history in histories.values():
        assert [row["valid_to"] for row in history].index("") == len(history) - 1
        for row, following in pairwise(history):
            start, end = (date.fromisoformat(row[name]) for name in ("valid_from", "valid_to"))
            next_start = date.fromisoformat(following["valid_from"])
            assert start < end < next_start
            gaps += (next_start - end).days > 1
        assert history[-1]["valid_from"] < "2026-01-01"

    assert {1, 2, 3, 4, 5} <= set(Counter(map(len, histories.values())))
    assert 0 < 3000 - len(histories) < 150
    assert gaps > 100


def test_a_month_of_sales_holds_that_month_and_known_stores(folder: Path) -> None:
    stores = read(folder / "stores.csv")
    assert any("," in store["location"] for store in stores)
    for month in ("2025-10", "2025-11", "2025-12"):
        rows = read(folder / "sales" / f"{month}-01" / "sales.csv")

        assert len(rows) >= 200
        assert {row["date"][:7] for row in rows} == {month}
        assert {row["store_idx"] for row in rows} <= {store["idx"] for store in stores}
        assert all(float(row["value"]) > 0 for row in rows)


def true_probabilities(folder: Path) -> dict[str, float]:
    """The docstring's formula, worked out from the files, row by row."""
    effect = dict(zip("abcde", (-0.9, -0.4, 0.0, 0.4, 0.9), strict=True))
    slope = dict(zip("abcde", (4.5, 4.5, 4.5, 1.5, -3.0), strict=True))
    latest = {
        row["idx"]: float(row["scd_a"]) - 0.5
        for row in read(folder / "customer_activity.csv")
        if row["valid_to"] == ""
    }
    return {
        row["idx"]: 1
        / (
            1
            + exp(1.15 - effect[row["attr_b"]] - slope[row["attr_b"]] * latest.get(row["idx"], 0.0))
        )
        for row in read(folder / "customer_profiles.csv")
    }


def test_the_signal_is_the_documented_one(tmp_path: Path) -> None:
    written = write_sample(tmp_path / "bucket", customers=20_000, months=1)
    probability = true_probabilities(tmp_path / "bucket")
    labels = read(tmp_path / "bucket" / "labels.csv")
    truth = [int(row["label"]) for row in labels]
    expected = [probability[row["idx"]] for row in labels]

    assert written.attainable_auc == pytest.approx(roc_auc_score(truth, expected))
    assert 0.75 < written.attainable_auc < 0.82
    assert written.base_rate == pytest.approx(sum(truth) / len(truth))
    # Calibration, decile by decile: what was drawn is what the formula says, to five deviations.
    pairs = sorted(zip(expected, truth, strict=True))
    for start in range(0, len(pairs), len(pairs) // 10):
        part = pairs[start : start + len(pairs) // 10]
        drawn, mean = sum(one for _, one in part), sum(chance for chance, _ in part)
        assert abs(drawn - mean) < 5 * max(1.0, mean) ** 0.5


def test_random_labels_have_the_base_rate_and_no_signal(tmp_path: Path) -> None:
    signal = write_sample(tmp_path / "signal", customers=20_000, months=1)
    noise = write_sample(tmp_path / "noise", customers=20_000, months=1, labels="random")
    probability = true_probabilities(tmp_path / "noise")
    labels = read(tmp_path / "noise" / "labels.csv")
    area = roc_auc_score(
        [int(row["label"]) for row in labels], [probability[row["idx"]] for row in labels]
    )

    assert noise.attainable_auc == 0.5
    assert noise.base_rate == pytest.approx(signal.base_rate, abs=0.02)
    assert area == pytest.approx(0.5, abs=0.025)
    assert 0.78 < noise.rows["labels"] / 20_000 < 0.82


def test_the_rows_reported_are_those_in_the_files(folder: Path, tmp_path: Path) -> None:
    written = write_sample(tmp_path / "again", customers=3000, months=3)

    assert digests(written.folder) == digests(folder)
    for name in ("customer_profiles", "customer_activity", "labels", "stores"):
        assert written.rows[name] == len(read(folder / f"{name}.csv"))
    sales = (folder / "sales").glob("*/sales.csv")
    assert written.rows["sales"] == sum(len(read(file)) for file in sales)


def test_another_seed_gives_other_bytes(folder: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "other", customers=3000, months=3, seed=7)

    other = digests(tmp_path / "other")
    assert [path for path, digest in digests(folder).items() if other[path] == digest] == []


def test_a_month_is_the_same_in_a_longer_sample(folder: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "longer", customers=3000, months=5)

    longer = digests(tmp_path / "longer")
    months = [path for path in digests(folder) if path.startswith("sales/")]
    assert {path: longer[path] for path in months} == {
        path: digests(folder)[path] for path in months
    }
    assert "sales/2025-08-01/sales.csv" in longer


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    write_sample(tmp_path / "bucket", customers=5, months=1)
    before = digests(tmp_path / "bucket")

    with pytest.raises(BucketError, match="exists already"):
        write_sample(tmp_path / "bucket", customers=5, months=1, seed=7)
    assert digests(tmp_path / "bucket") == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BucketError, match="exists already"):
        write_sample(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


WRITE_WITH_LITTLE_ROOM = """
import pathlib, resource, sys
from gristmill.bucket.sample import write_sample
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # bytes a file: too few for sales
try:
    write_sample(pathlib.Path(sys.argv[1]), customers=10, months=3)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_sample_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-c", WRITE_WITH_LITTLE_ROOM, str(tmp_path / "bucket")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert said.startswith(f"BucketError Cannot write the sample to {tmp_path}/bucket: ")
    assert "File too large" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"customers": 0}, {"months": 0}, {"seed": -1}])
def test_what_cannot_be_written_is_said(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(BucketError, match="at least one client"):
        write_sample(tmp_path / "bucket", **wrong)


def test_ties_count_half_in_the_attainable_area() -> None:
    # Worked by hand: pairs of a 1 and a 0: (0.5, 0.5) half, (0.5, 0.2), (0.9, 0.5), (0.9, 0.2).
    probability = np.array([0.5, 0.5, 0.2, 0.9])
    label = np.array([1, 0, 0, 1])

    assert _auc(probability, label) == 3.5 / 4
