"""A card for every feature: how it is distributed, what is missing, and the label beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.training.report import charts, numbers
from gristmill.training.report.charts import Plot, feature_axis, share_axis
from gristmill.training.report.distribution import NOTABLE_SHIFT
from gristmill.training.report.html import Html, datum, element, join
from gristmill.training.report.page import Column, card, cards, fold, lead, legend, table

MOST_CARDS = 60
"""Columns that have a card of their own: with more, a page would be too large to send."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.training.report.distribution import Distribution, Group
    from gristmill.training.report.examine import Examined
    from gristmill.training.report.html import Child


def feature_cards(found: Examined) -> Html:
    """The features of the training part, the most important first, the holdout beside each."""
    base = found.training_positives / found.training_rows
    place = {one.feature: rank for rank, one in enumerate(found.importances.features)}
    ordered = sorted(found.distributions, key=lambda one: place[one.feature.name])
    first, rest = ordered[:MOST_CARDS], ordered[MOST_CARDS:]
    shifted = [one for one in found.distributions if (one.shift or 0) > NOTABLE_SHIFT]
    greatest = max((one.shift or 0.0 for one in found.distributions), default=0.0)
    told = (
        f"The holdout is like the training part: no population stability index (PSI) is above "
        f"{max(greatest, 0.0005):.3f}."
        if not shifted
        else f"The holdout differs from the training part in {len(shifted)} of them, by a "
        f"population stability index (PSI) above {NOTABLE_SHIFT}."
    )
    return join(
        lead(f"As they are in the training part. {told}"),
        legend(
            ("", "training part"),
            ("line-second", "holdout"),
            ("line-series", "share of label 1"),
            ("dashed", "over all rows"),
        ),
        cards([distribution_card(one, base=base) for one in first]),
        fold(f"{len(rest)} more features", element("p", *_named(rest))) if rest else None,
    )


def _named(rest: Sequence[Distribution]) -> list[Child]:
    parts: list[Child] = []
    for one in rest:
        parts += [", " if parts else None, datum(one.feature.name)]
    return parts


def distribution_card(one: Distribution, *, base: float | None) -> Html:
    """One column: its shape, and where labels are known their share in each group.

    `base` is the share of label 1 over all rows.
    """
    chart = _histogram(one) if one.edges else None
    by_label = None
    if base is not None and any(group.label for group in one.groups):
        by_label = _label_chart(one, base) if one.edges else None
    return card(
        datum(one.feature.name),
        element("p", _summary(one), class_="key"),
        chart,
        by_label,
        _groups(one, base) if not one.edges else fold("In numbers", _groups(one, base)),
    )


def _summary(one: Distribution) -> Child:
    parts: list[Child] = [f"{one.feature.type} · {_distinct(one)}"]
    if one.quantiles:
        low, middle, high = (numbers.encoded(value, one.feature.type) for value in one.quantiles)
        if one.distinct > 1 and one.feature.type != "boolean":
            parts.append(f" · {low} to {high}, median {middle}")
    nulls = one.nulls / one.rows if one.rows else 0.0
    parts.append(
        " · no nulls" if not one.nulls else element("span", f" · {numbers.share(nulls)} null")
    )
    if one.shift is not None and one.shift > NOTABLE_SHIFT:
        text = f" · differs in the holdout (PSI {one.shift:.2f})"
        parts.append(element("span", text, class_="bad"))
    return parts


def _distinct(one: Distribution) -> str:
    if one.distinct == 1:
        return "one value only"
    return f"{numbers.count(one.distinct)} values"


def _histogram(one: Distribution) -> Html:
    kind = one.feature.type
    highest = max([*one.heights, *one.heights_beside, 1e-9])
    plot = Plot(
        x=feature_axis("", kind, one.edges[0], one.edges[-1]),
        y=share_axis("share of rows", highest),
        height=124,
    )
    for left, right, height in zip(one.edges[:-1], one.edges[1:], one.heights, strict=True):
        between = f"{numbers.encoded(left, kind)} to {numbers.encoded(right, kind)}"
        plot.bar(left, right, height, "main", f"{between}: {numbers.share(height)}")
    if one.heights_beside:
        plot.steps(one.edges, one.heights_beside, "second")
    return plot.svg(f"How {one.feature.name} is distributed")


def _label_chart(one: Distribution, base: float) -> Html:
    """The share of label 1 in each range, where the range's median lies."""
    kind = one.feature.type
    ranges = [group for group in one.groups if group.label and group.middle is not None]
    highest = max([base, *(group.label.high for group in ranges if group.label)], default=base)
    plot = Plot(
        x=feature_axis("", kind, one.edges[0], one.edges[-1]),
        y=share_axis("label 1", min(1.0, highest * 1.1)),
        height=124,
    )
    plot.level(base)
    points = [(group.middle, group.label.value) for group in ranges if group.label]
    plot.line([(x, y) for x, y in points if x is not None], "series")
    for group in ranges:
        if group.label and group.middle is not None:
            label = group.label
            plot.whisker(
                group.middle, label.low, label.high, label.value,
                f"{group.name}: {numbers.share(label.value)} "
                f"({numbers.interval(label.low, label.high, of_shares=True)})",
            )  # fmt: skip
    return plot.svg(f"Share of label 1 by {one.feature.name}")


def _groups(one: Distribution, base: float | None) -> Html:
    beside = any(group.beside is not None for group in one.groups)
    with_label = base is not None and any(group.label for group in one.groups)
    highest = max([group.rows for group in one.groups], default=1) / max(1, one.rows)
    total_beside = max(1, sum(group.beside or 0 for group in one.groups))
    ends = [group.label.high for group in one.groups if group.label]
    columns = [
        Column(title="values" if one.feature.type == "text" else "range"),
        Column(title="rows", kind="strip"),
        Column(title="share", kind="number"),
    ]
    if with_label:
        columns.append(Column(title="label 1", kind="strip"))
        columns.append(Column(title="share", kind="number"))
    rows: list[list[Child]] = []
    for group in one.groups:
        part = group.rows / max(1, one.rows) / highest
        other = (group.beside or 0) / total_beside / highest if beside else None
        row: list[Child] = [
            _group_name(group),
            charts.length(part, beside=None if other is None else min(1.0, other)),
            numbers.share(group.rows / max(1, one.rows)),
        ]
        if with_label and base is not None:
            label = group.label
            axis = (0.0, min(1.0, max([base, *ends]) * 1.05))
            row += (
                [None, "–"]
                if label is None
                else [
                    charts.reach(label.value, label.low, label.high, axis=axis, level=base),
                    numbers.share(label.value),
                ]
            )
        rows.append(row)
    return table(columns, rows, folding=False)


def _group_name(group: Group) -> Html:
    if group.of_data:
        return datum(group.name)
    return element("span", group.name, class_="soft") if group.name == "null" else join(group.name)
