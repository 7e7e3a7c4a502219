"""Writes a sample bucket of the clients project, with a planted signal or with random labels.

It shows what to expect of real files (several activity rows a client, gaps, clients without
activity or label), and never writes over anything.
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gristmill.errors import BucketError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[Any]

FIRST_CLIENT = 100_000
END = np.datetime64("2026-01-01")
"""The day after the last month, fixed so that the same seed always gives the same bytes."""
LABELLED_SHARE = 0.8
WITHOUT_ACTIVITY_SHARE = 0.02
CATEGORIES = ("a", "b", "c", "d", "e")
INTERCEPT = -1.15
CATEGORY_EFFECT = np.array([-0.9, -0.4, 0.0, 0.4, 0.9])
CATEGORY_SLOPE = np.array([4.5, 4.5, 4.5, 1.5, -3.0])
LOCATIONS = (
    "Lisbon", "Porto", "Coimbra", "Braga", "Faro", "Évora", "Setúbal", "Madrid", "Barcelona",
    "Sevilla", "Santiago, Galicia", "Paris", "Lyon", "Berlin", "Köln", "Roma",
)  # fmt: skip
STORES = 48
SHORTEST_INTERVAL = 12
"""Days between two starts of activity of one client, at the least."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was written."""

    folder: Path
    """The bucket."""
    rows: Mapping[str, int]
    """Rows by table: customer_profiles, customer_activity, labels, stores, sales."""
    base_rate: float
    """The share of labels that are 1."""
    attainable_auc: float
    """The area under the ROC curve of the probabilities that the labels were drawn from: no model
    does better but by luck. 0.5 for random labels."""


def write_sample(
    folder: Path,
    *,
    customers: int = 100_000,
    months: int = 24,
    labels: Literal["signal", "random"] = "signal",
    seed: int = 42,
) -> Sample:
    """Write customer_profiles.csv, customer_activity.csv, labels.csv, stores.csv and monthly sales.

    Clients are numbered from 100000, months end with December 2025. With `labels="signal"`

        P(label = 1) = 1 / (1 + exp(-(INTERCEPT + effect[attr_b] + slope[attr_b] (scd_a - 1/2))))

    with the `scd_a` of the client's latest activity (the last term is 0 where there is none), and
    CATEGORY_EFFECT and CATEGORY_SLOPE for the attr_b "a" to "e": an interaction, since the slope
    changes its sign. That allows an area under the ROC curve of about 0.79 at a base rate of about
    0.26; `attr_a` and `scd_b` say nothing. With "random", each label is a coin of that base rate.

    The same arguments and library versions give the same bytes, and a month of sales is the same
    however many months there are. The folder appears whole or not at all. Raises BucketError
    where it exists and is not empty, or cannot be written.
    """
    if customers < 1 or months < 1 or seed < 0:
        raise BucketError(
            "A sample needs at least one client, one month and a seed of 0 or more, not "
            f"{customers}, {months} and {seed}."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BucketError(
            f"{folder} exists already, and a sample is written over nothing: name a new folder, or "
            "remove that one."
        )
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        sample = _write(draft, folder, customers, months, labels, seed)
        draft.rename(folder)
    except OSError as error:
        raise BucketError(
            f"Cannot write the sample to {folder}: {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return sample


def _write(
    draft: Path, folder: Path, customers: int, months: int, labels: str, seed: int
) -> Sample:
    profiles = _profiles(customers, seed)
    activity, latest = _activity(customers, max(months, 12), seed)
    labelled, probability = _labels(profiles, latest, labels, seed)
    tables = {
        "customer_profiles": profiles,
        "customer_activity": activity,
        "labels": labelled,
        "stores": _stores(seed),
    }
    rows = {name: _write_csv(draft / f"{name}.csv", table) for name, table in tables.items()}
    rows["sales"] = 0
    last = END.astype("datetime64[M]")
    for month in np.arange(last - months, last):
        place = draft / "sales" / f"{month}-01"
        place.mkdir(parents=True)
        rows["sales"] += _write_csv(place / "sales.csv", _sales(month, customers, seed))
    return Sample(
        folder=folder,
        rows=rows,
        base_rate=float(labelled["label"].mean()) if rows["labels"] else 0.0,
        attainable_auc=_auc(probability, labelled["label"]),
    )


def _profiles(customers: int, seed: int) -> dict[str, Array]:
    random = np.random.default_rng([seed, 1])
    return {
        "idx": FIRST_CLIENT + np.arange(customers),
        "attr_a": random.integers(1, 6, customers),
        "attr_b": np.array(CATEGORIES)[
            random.choice(len(CATEGORIES), customers, p=[0.3, 0.25, 0.2, 0.15, 0.1])
        ],
    }


def _activity(customers: int, months: int, seed: int) -> tuple[dict[str, Array], Array]:
    """The history of all clients, oldest first, and each client's latest scd_a (NaN: none)."""
    random = np.random.default_rng([seed, 2])
    counts = 1 + random.binomial(5, 0.35, customers)
    counts[random.random(customers) < WITHOUT_ACTIVITY_SHARE] = 0
    client = np.repeat(np.arange(customers), counts)
    rank = np.arange(client.size) - np.repeat(np.cumsum(counts) - counts, counts)
    start = _starts(random, client, rank, counts, months)
    is_last = rank == counts[client] - 1
    gap = np.where(random.random(client.size) < 0.6, 0, random.integers(1, 10, client.size))
    end = np.roll(start, -1) - np.timedelta64(1, "D") - gap
    end[is_last] = np.datetime64("NaT")
    scd_a = np.round(random.random(client.size), 2)
    scd_b = random.poisson(3.0, client.size)
    latest = np.full(customers, np.nan)
    latest[client[is_last]] = scd_a[is_last]
    order = np.lexsort((client, start))
    table = {
        "idx": FIRST_CLIENT + client,
        "valid_from": start,
        "valid_to": end,
        "scd_a": scd_a,
        "scd_b": scd_b,
    }
    return {name: values[order] for name, values in table.items()}, latest


def _starts(
    random: np.random.Generator, client: Array, rank: Array, counts: Array, months: int
) -> Array:
    """Ascending days within the last months for each client, SHORTEST_INTERVAL apart or more."""
    first = (END.astype("datetime64[M]") - months).astype("datetime64[D]")
    days = int((END - first).astype(int))
    weight = 0.1 + random.exponential(size=client.size)
    after_the_last = random.exponential(size=counts.size)
    total = (np.bincount(client, weight, minlength=counts.size) + after_the_last)[client]
    running = np.cumsum(weight)
    before = np.repeat((np.cumsum(counts) - counts), counts)
    share = (running - (running - weight)[before]) / total
    slack = days - SHORTEST_INTERVAL * counts[client]
    start: Array = first + np.floor(share * slack).astype(int) + SHORTEST_INTERVAL * rank
    return start


def _labels(
    profiles: Mapping[str, Array], latest: Array, labels: str, seed: int
) -> tuple[dict[str, Array], Array]:
    """The labels of some clients, and the probabilities that they were drawn from."""
    random = np.random.default_rng([seed, 3])
    category = np.searchsorted(np.array(CATEGORIES), profiles["attr_b"])
    activity = np.nan_to_num(latest - 0.5, nan=0.0)
    logit = INTERCEPT + CATEGORY_EFFECT[category] + CATEGORY_SLOPE[category] * activity
    probability = 1 / (1 + np.exp(-logit))
    if labels == "random":
        probability = np.full(probability.size, probability.mean())
    chosen = np.flatnonzero(random.random(probability.size) < LABELLED_SHARE)
    drawn = (random.random(probability.size) < probability).astype(int)
    return {"idx": profiles["idx"][chosen], "label": drawn[chosen]}, probability[chosen]


def _stores(seed: int) -> dict[str, Array]:
    random = np.random.default_rng([seed, 4])
    return {
        "idx": np.arange(1, STORES + 1),
        "location": np.array(LOCATIONS)[random.integers(0, len(LOCATIONS), STORES)],
    }


def _sales(month: Any, customers: int, seed: int) -> dict[str, Array]:
    """One month, in order of date; December sells more, and some stores more than others."""
    number = int(month.astype(int))
    random = np.random.default_rng([seed, 5, number])
    count = max(200, customers // 5)
    count = int(count * (1.4 if number % 12 == 11 else random.uniform(0.9, 1.1)))
    weight = 1 / np.arange(1, STORES + 1) ** 0.5
    first = month.astype("datetime64[D]")
    days = int(((month + 1).astype("datetime64[D]") - first).astype(int))
    return {
        "store_idx": 1 + random.choice(STORES, count, p=weight / weight.sum()),
        "date": first + np.sort(random.integers(0, days, count)),
        "value": np.round(random.lognormal(3.0, 0.8, count), 2),
    }


def _write_csv(file: Path, columns: Mapping[str, Array]) -> int:
    # Here, so that a command which writes no sample does not wait for pyarrow.
    import pyarrow as pa
    import pyarrow.csv as csv

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    # pyarrow quotes every text or none; locations have commas.
    quoting = "needed" if "location" in columns else "none"
    options = csv.WriteOptions(batch_size=1 << 16, quoting_style=quoting, quoting_header="none")
    csv.write_csv(table, file, options)
    return int(table.num_rows)


def _auc(probability: Array, label: Array) -> float:
    """The share of pairs of a 1 and a 0 in which the 1 has the higher probability (ties half)."""
    _, tie, counts = np.unique(probability, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[tie]
    ones = int(label.sum())
    pairs = ones * (label.size - ones)
    if pairs == 0:
        return 0.5
    return float((rank[label == 1].sum() - ones * (ones + 1) / 2) / pairs)
