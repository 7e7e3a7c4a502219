"""The page of `gristmill explore`: the data as it is, before any model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from gristmill.training.report import charts, numbers
from gristmill.training.report.charts import Axis, Plot, value_ticks
from gristmill.training.report.distribution import Distribution, Group, distribution
from gristmill.training.report.html import Html, datum, element, join, shown
from gristmill.training.report.page import (
    Column,
    Section,
    card,
    cards,
    headline,
    lead,
    legend,
    notes,
    page,
    table,
    tiles,
)
from gristmill.training.report.profile import MOST_CARDS, distribution_card

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from gristmill.features.profile import ColumnProfile, History, Profile
    from gristmill.training.report.html import Child

MANY_NULLS = 0.5
RARE_LABEL = 0.05
KEY_LIKE = 0.5
"""A text with more values than this share of its rows tells rows apart, not kinds of them."""
LEVEL = 0.05
TELLING_ROWS = 50
"""Rows of a group that all have the same label, from which on that is worth a look."""
LABEL_TYPES = ("integer", "number", "boolean")
MOST_COLUMNS = 200
"""Columns of a table that are shown: with more, a page would be too large to send."""
ODD_PERIOD = 0.5
"""A period with fewer rows than this share of the median one is worth a look."""


@dataclass(frozen=True, kw_only=True)
class PeriodFound:
    """One period of a table."""

    name: str
    rows: int
    rejected: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TableFound:
    """One table or derived table."""

    profile: Profile
    origin: str
    """Where its rows are from, in words: loads, builds."""
    history: History | None = None
    periods: tuple[PeriodFound, ...] = ()
    """Of a periodic table, in order."""
    missing: tuple[str, ...] = ()
    """Periods between others that are not there."""
    rejects: Mapping[str, int] | None = None
    """Rows that the newest loads refused, by rule."""
    without_row: int | None = None
    """Entities that have no row here; None where it holds none."""
    of_nobody: int = 0
    """Rows of entities that the entities' table does not list."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoreFound:
    """The feature store."""

    profile: Profile
    features: tuple[str, ...]
    """Its columns that a model is given."""
    as_of: datetime
    """The moment that it describes."""
    label: str | None
    labelled: int
    """Entities whose label is known."""
    ones: int
    """… and is 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explored:
    """All that was looked at."""

    project: str
    made_at: datetime
    entity: str | None
    """The name of the entity's key."""
    store: StoreFound | None
    tables: tuple[TableFound, ...]
    absent: tuple[str, ...]
    """What is declared and was never loaded or built."""


def data_report(found: Explored) -> str:
    """The page, as HTML."""
    distributions = _of_features(found.store) if found.store else []
    remarks = _remarks(found, distributions)
    sections = [Section(name="notes", title="Worth a look", body=_noted(remarks))]
    if found.store:
        body = _store(found.store, distributions)
        sections.append(Section(name="features", title="Features and label", body=body))
    sections.append(Section(name="tables", title="Tables", body=_overview(found)))
    for number, one in enumerate(found.tables):
        title = shown(one.profile.name)
        sections.append(
            Section(name=f"table-{number}", title=title, body=_table(one), listed=False)
        )
    return page(
        title=f"{found.project}: the data",
        header=_header(found, remarks),
        sections=sections,
        footer=f"Written by gristmill explore, {numbers.when(found.made_at)}. Rows, nulls, the "
        "least and the greatest are counted over all rows; distributions are those of all rows "
        "or, where a table says so, of a sample of them.",
    )


# The top


def _header(found: Explored, remarks: Sequence[Child]) -> Html:
    rows = sum(one.profile.rows for one in found.tables)
    shown_tiles: list[tuple[str, Child, Child]] = [
        ("Tables", numbers.count(len(found.tables)), f"{numbers.count(rows)} rows")
    ]
    if found.store:
        store = found.store
        entities = store.profile.rows
        shown_tiles.append(
            ("Entities", numbers.count(entities), f"by {shown(found.entity or 'their key')}")
        )
        if store.label and entities:
            share = numbers.share(store.labelled / entities)
            shown_tiles.append(("With a label", numbers.count(store.labelled), f"{share} of them"))
        if store.labelled:
            ones = numbers.count(store.ones)
            shown_tiles.append(("Label 1", numbers.share(store.ones / store.labelled), ones))
    rejected = sum(sum((one.rejects or {}).values()) for one in found.tables)
    shown_tiles.append(("Rejected rows", numbers.count(rejected), "in the newest loads"))
    return headline(
        kicker=[datum(found.project), f" · the data · {numbers.when(found.made_at)}"],
        word="",
        mood="plain",
        sentence=_sentence(found, len(remarks)),
        below=tiles(shown_tiles),
    )


def _sentence(found: Explored, remarks: int) -> str:
    if not found.tables:
        return "Nothing is loaded yet."
    worth = {0: "nothing stands out", 1: "one thing is worth a look"}.get(
        remarks, f"{remarks} things are worth a look"
    )
    rows = sum(one.profile.rows for one in found.tables)
    many = "one table" if len(found.tables) == 1 else f"{len(found.tables)} tables"
    return f"{numbers.count(rows)} rows in {many}: {worth}."


def _noted(remarks: Sequence[Child]) -> Html:
    return notes(remarks) if remarks else lead("Nothing stands out.")


# What is worth a look


def _remarks(found: Explored, distributions: Sequence[Distribution]) -> list[Child]:
    remarks: list[Child] = []
    if found.absent:
        names = _listed(found.absent)
        remarks.append(["Declared and not there yet: ", names, "."])
    if found.store:
        remarks += _label_remarks(found.store, distributions)
        for column in found.store.profile.columns:
            if column.feature.name in found.store.features:
                remarks += _column_remarks(found.store.profile, column)
    for one in found.tables:
        remarks += _table_remarks(one)
    return remarks


def _label_remarks(store: StoreFound, distributions: Sequence[Distribution]) -> list[Child]:
    if not store.label:
        return []
    if not store.labelled:
        return ["No entity has a label: nothing can be trained."]
    if _label_type(store) not in LABEL_TYPES:
        return [f"The label is {_label_type(store)}: only 0 and 1 can be predicted."]
    remarks: list[Child] = []
    share = store.ones / store.labelled
    if min(share, 1 - share) < RARE_LABEL:
        remarks.append(
            f"Label 1 is {'rare' if share < 0.5 else 'nearly all'}: {store.ones:,} rows."
        )
    related = [one for one in distributions if depends(one, tests=len(distributions))]
    others = [one.feature.name for one in distributions if one not in related]
    if related:
        remarks.append(
            [
                "The label goes with ",
                _listed([one.feature.name for one in related]),
                " more than by chance",
                [", and not visibly with ", _listed(others)] if others else None,
                ". Each is looked at alone.",
            ]
        )
    elif distributions:
        remarks.append("The label goes with no feature alone more than by chance.")
    remarks += [one for each in distributions for one in _feature_remarks(each)]
    return remarks


def _feature_remarks(one: Distribution) -> list[Child]:
    remarks: list[Child] = []
    name = datum(one.feature.name)
    for group in one.groups:
        label = group.label
        if label and group.rows >= TELLING_ROWS and label.value in (0.0, 1.0):
            remarks.append(
                [
                    name, ": all ", numbers.count(group.rows), " rows where it is ",
                    _group(group), f" have label {label.value:.0f}. Does it know the answer?",
                ]
            )  # fmt: skip
    if one.feature.type == "text" and one.distinct > KEY_LIKE * max(1, one.rows - one.nulls):
        remarks.append(
            [name, " has nearly as many values as rows: it tells rows apart, not kinds."]
        )
    return remarks


def _table_remarks(one: TableFound) -> list[Child]:
    name = datum(one.profile.name)
    remarks: list[Child] = []
    if one.rejects:
        counted = ", ".join(f"{rule} {count:,}" for rule, count in one.rejects.items())
        command = element("code", f"gristmill rejects {one.profile.name}")
        remarks.append([name, f": rejected rows ({counted}): ", command, " shows them."])
    if one.missing:
        remarks.append([name, ": no file for ", _listed(one.missing), "."])
    if one.without_row:
        remarks.append([name, f": entities without a row in it: {one.without_row:,}."])
    if one.of_nobody:
        remarks.append([name, f": rows of entities that are not listed: {one.of_nobody:,}."])
    remarks += _period_remarks(one)
    for column in one.profile.columns:
        remarks += _column_remarks(one.profile, column)
    return remarks


def _period_remarks(one: TableFound) -> list[Child]:
    if len(one.periods) < 4:
        return []
    usual = median(period.rows for period in one.periods)
    # The newest one may not be over yet.
    odd = [period for period in one.periods[:-1] if period.rows < ODD_PERIOD * usual]
    return [
        [
            datum(one.profile.name),
            f": {period.name} has {period.rows:,} rows; the median one has {usual:,.0f}.",
        ]
        for period in odd[:5]
    ]


def _column_remarks(profile: Profile, column: ColumnProfile) -> list[Child]:
    name = datum(f"{profile.name}.{column.feature.name}")
    if not profile.rows:
        return []
    if column.nulls == profile.rows:
        return [[name, " is null in every row."]]
    if column.nulls > MANY_NULLS * profile.rows:
        return [[name, f" is null in {numbers.share(column.nulls / profile.rows)} of the rows."]]
    if column.extremes and column.extremes[0] == column.extremes[1] and profile.rows > 1:
        return [[name, " has one value only."]]
    return []


def depends(one: Distribution, *, tests: int) -> bool:
    """Whether label 1 differs between a feature's groups beyond chance: a χ² test at 5% over all.

    The tail is Wilson and Hilferty's, Proceedings of the National Academy of Sciences 17 (1931)
    684-688. Groups with fewer than five expected rows of a label are left out.
    """
    counted = [(group.labelled, group.label.value * group.labelled) for group in one.groups
               if group.label]  # fmt: skip
    rows, ones = sum(n for n, _ in counted), sum(k for _, k in counted)
    if not rows or ones in (0, rows):
        return False
    share = ones / rows
    usable = [(n, k) for n, k in counted if n * min(share, 1 - share) >= 5]
    rows, ones = sum(n for n, _ in usable), sum(k for _, k in usable)
    freedom = len(usable) - 1
    if freedom < 1 or ones in (0, rows):
        return False
    share = ones / rows
    statistic = sum((k - n * share) ** 2 / (n * share * (1 - share)) for n, k in usable)
    spread = 2 / (9 * freedom)
    distance = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return NormalDist().cdf(-distance) <= LEVEL / max(1, tests)


# The feature store


def _label_type(store: StoreFound) -> str:
    return next(
        column.feature.type
        for column in store.profile.columns
        if column.feature.name == store.label
    )


def _of_features(store: StoreFound) -> list[Distribution]:
    """Every feature, with the label beside it where it is 0 or 1."""
    import numpy as np
    import pyarrow.compute as pc

    sample = store.profile.sample
    labels = None
    if store.label and store.labelled and _label_type(store) in LABEL_TYPES:
        known = pc.cast(sample.column(store.label), "float64", safe=False).to_numpy()
        if np.isin(known[~np.isnan(known)], (0.0, 1.0)).all():
            labels = np.asarray(known, dtype=np.float64)
    wanted = {column.feature.name: column.feature for column in store.profile.columns}
    return [
        distribution(sample.column(name), wanted[name], labels=labels, fewest=1)
        for name in store.features
        if name in wanted
    ]


def _store(store: StoreFound, distributions: Sequence[Distribution]) -> Html:
    base = store.ones / store.labelled if store.labelled else None
    profile = store.profile
    more = len(distributions) - MOST_CARDS
    text = f"The feature store as of {numbers.when(store.as_of)}: {profile.rows:,} entities"
    if profile.is_sampled:
        text += f", of which {profile.sample.num_rows:,} are drawn here"
    return join(
        lead(f"{text}."),
        legend(("", "entities"), ("line-series", "share of label 1"), ("dashed", "over all"))
        if base is not None
        else None,
        cards([distribution_card(one, base=base) for one in distributions[:MOST_CARDS]]),
        lead(f"{more:,} more features are left out here.") if more > 0 else None,
    )


# Tables


def _overview(found: Explored) -> Html:
    rows: list[list[Child]] = [
        [
            element("a", datum(one.profile.name), href=f"#table-{number}"),
            numbers.count(one.profile.rows),
            str(len(one.profile.columns)),
            str(len(one.periods)) if one.periods else "–",
            numbers.count(sum((one.rejects or {}).values())) if one.rejects is not None else "–",
            "–" if one.without_row is None else numbers.count(one.without_row),
            one.origin,
        ]
        for number, one in enumerate(found.tables)
    ]
    columns = [
        Column(title="table"),
        Column(title="rows", kind="number"),
        Column(title="columns", kind="number"),
        Column(title="periods", kind="number"),
        Column(title="rejected", kind="number"),
        Column(title="entities without a row", kind="number"),
        Column(title="from", kind="remark"),
    ]
    return table(columns, rows)


def _table(one: TableFound) -> Html:
    profile = one.profile
    text = f"{profile.rows:,} rows, {one.origin}."
    if profile.is_sampled:
        text += (
            f" Distributions and values are those of {profile.sample.num_rows:,} rows at random."
        )
    blocks = [*_periods(one), *_history(one)]
    return join(lead(text), cards(blocks) if blocks else None, _columns(profile))


def _columns(profile: Profile) -> Html:
    rows: list[list[Child]] = []
    for column in profile.columns[:MOST_COLUMNS]:
        values = profile.sample.column(column.feature.name)
        one = distribution(values, column.feature, fewest=1)
        nulls = column.nulls / profile.rows if profile.rows else 0.0
        at_least = "≥ " if profile.is_sampled else ""
        rows.append(
            [
                join(datum(column.feature.name), " ", element("span", column.type, class_="soft")),
                _shape(one),
                _values(one, column),
                f"{at_least}{one.distinct:,}",
                "none" if not column.nulls else numbers.share(nulls),
            ]
        )
    columns = [
        Column(title="column"),
        Column(title="distribution", kind="strip"),
        Column(title="values", kind="remark"),
        Column(title="different", kind="number"),
        Column(title="null", kind="number"),
    ]
    more = len(profile.columns) - MOST_COLUMNS
    return join(
        table(columns, rows),
        lead(f"{more:,} more columns are left out here.") if more > 0 else None,
    )


def _shape(one: Distribution) -> Html:
    name = f"How {one.feature.name} is distributed"
    if one.edges:
        return charts.spark(one.heights, name)
    return charts.spark([float(group.rows) for group in one.groups], name)


def _values(one: Distribution, column: ColumnProfile) -> Child:
    kind = one.feature.type
    if kind != "text" and column.extremes:
        low, high = (numbers.encoded(value, kind) for value in column.extremes)
        middle = numbers.encoded(one.quantiles[1], kind) if one.quantiles else "–"
        return low if low == high else f"{low} to {high}, median {middle}"
    named = [group for group in one.groups if group.rows and group.name != "null"]
    total = max(1, sum(group.rows for group in one.groups))
    parts: list[Child] = []
    for group in named[:4]:
        parts.append(
            [", " if parts else "", _group(group), f" {numbers.share(group.rows / total)}"]
        )
    return parts or "–"


def _periods(one: TableFound) -> list[Html]:
    if not one.periods:
        return []
    by_name = {period.name: period for period in one.periods}
    names = sorted({*by_name, *one.missing})
    rows = [by_name[name].rows if name in by_name else 0 for name in names]
    told = [
        f"{name}: {by_name[name].rows:,} rows, {by_name[name].rejected:,} rejected"
        if name in by_name
        else f"{name}: no file"
        for name in names
    ]
    text = f"{len(by_name)} periods, {names[0]} to {names[-1]}"
    missing: Child = [", missing: ", _listed(one.missing)] if one.missing else ", none missing"
    rejected = sum(period.rejected for period in one.periods)
    return [
        card(
            "Over time",
            element("p", text, missing, f"; rows rejected: {rejected:,}."),
            _columns_chart(names, rows, told, "Rows of each period", absent=set(one.missing)),
            wide=len(names) > 30,
        )
    ]


def _history(one: TableFound) -> list[Html]:
    found = one.history
    if found is None or not found.things:
        return []
    each = found.rows_each
    most = max(each)
    heights = [each.get(number, 0) for number in range(1, min(most, 30) + 1)]
    more = sum(things for number, things in each.items() if number > 30)
    names = [str(number) for number in range(1, len(heights) + 1)]
    if more:
        names.append("more")
        heights.append(more)
    told = [f"{name} rows: {height:,}" for name, height in zip(names, heights, strict=True)]
    mean = one.profile.rows / found.things
    blocks = [
        card(
            "Rows each",
            element(
                "p",
                f"{found.things:,} histories of {mean:.1f} rows on average, {most:,} at the most. ",
                _gap_text(found),
            ),
            _columns_chart(names, heights, told, "How many histories have so many rows"),
        )
    ]
    if len(found.starts) > 1:
        months = list(found.starts)
        told = [f"{month}: {rows:,} rows begin" for month, rows in found.starts.items()]
        blocks.append(
            card(
                "Beginnings",
                element("p", f"Rows that begin in each month, {months[0]} to {months[-1]}."),
                _columns_chart(months, list(found.starts.values()), told, "Beginnings by month"),
            )
        )
    return blocks


def _gap_text(found: History) -> str:
    if found.open_rows is None:
        return "No end is declared: each row holds until the next."
    text = f"Still valid: {found.open_rows:,}. "
    if not found.gaps:
        return f"{text}There is no gap of more than a day."
    return (
        f"{text}{found.gaps:,} gaps of more than a day, "
        f"{numbers.quantity(found.median_gap or 0)} days in the median, "
        f"{numbers.quantity(found.longest_gap or 0)} at the longest."
    )


def _columns_chart(
    names: Sequence[str],
    heights: Sequence[int],
    told: Sequence[str],
    description: str,
    *,
    absent: set[str] | None = None,
) -> Html:
    """Bars beside each other, named as far as there is room."""
    highest = max([*heights, 1])
    every = math.ceil(len(names) / 5)
    named = tuple((index + 0.5, name) for index, name in enumerate(names) if index % every == 0)
    plot = Plot(
        x=Axis(title="", low=0.0, high=float(len(names)), ticks=named),
        y=Axis(title="", low=0.0, high=float(highest), ticks=value_ticks(highest)),
        height=170,
    )
    for index, (name, height, text) in enumerate(zip(names, heights, told, strict=True)):
        gone = bool(absent) and name in (absent or set())
        plot.bar(index, index + 1, highest if gone else height, "strong" if gone else "main", text)
    return plot.svg(description)


def _group(group: Group) -> Html:
    return datum(group.name) if group.of_data else join(group.name)


def _listed(names: Sequence[str]) -> Html:
    few = [datum(name) for name in names[:8]]
    parts: list[Child] = []
    for index, one in enumerate(few):
        last = index == len(few) - 1 and len(names) <= 8
        parts += ["" if not index else " and " if last else ", ", one]
    if len(names) > 8:
        parts.append(f" and {len(names) - 8} more")
    return join(parts)
