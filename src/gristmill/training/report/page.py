"""The frame of a page that is one file: it opens offline, asks no other site and runs no script.

Its own Content-Security-Policy says so to the browser, which then holds to it whatever stands in
the page.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from gristmill.training.report import numbers
from gristmill.training.report.html import Html, element, join, shown

if TYPE_CHECKING:
    from gristmill.training.report.html import Child

Mood = Literal["promote", "refuse", "unsure", "plain"]

_DEEPEST = 6
"""Levels of nested evidence that are shown."""
_LONGEST = 50
"""Entries of a list of evidence that are shown."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+\d\d:\d\d$")
"""A time as JSON has it."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with a heading of its own."""

    name: str
    """The anchor of its address."""
    title: str
    body: Html
    listed: bool = True
    """Whether the top of the page leads to it."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    title: str
    kind: Literal["text", "number", "strip", "remark"] = "text"


@cache
def _style() -> str:
    return files("gristmill.training.report").joinpath("page.css").read_text(encoding="utf-8")


def policy() -> str:
    """The Content-Security-Policy under which a page works, and no more."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def page(*, title: str, header: Html, sections: Sequence[Section], footer: str) -> str:
    """A whole page: what matters first, then its sections."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        # Not element(): a policy is written before anything that it holds for.
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", shown(title, longest=200)),
        element("style", Html(_style())),
    )
    links = [
        element("a", section.title, href=f"#{section.name}")
        for section in sections
        if section.listed
    ]
    body = element(
        "body",
        element("header", element("div", header, element("nav", links, aria_label="Sections"))),
        element(
            "main",
            [
                element(
                    "section",
                    element("h2", section.title, id=section.name),
                    section.body,
                    aria_labelledby=section.name,
                )
                for section in sections
            ],
        ),
        element("footer", footer),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def headline(*, kicker: Child, word: str, mood: Mood, sentence: Child, below: Child) -> Html:
    """The first thing to be read: a word and a sentence, and what bears them out."""
    return element(
        "div",
        element("p", kicker, class_="kicker"),
        element("h1", element("span", word, class_="word") if word else None, sentence),
        below,
        class_=mood,
    )


def tiles(found: Sequence[tuple[str, Child, Child]]) -> Html:
    """A few numbers to be seen at once: name, value, and a smaller line."""
    return element(
        "ul",
        [
            element(
                "li",
                element("span", name, class_="name"),
                element("span", value, class_="value"),
                element("span", more, class_="more"),
            )
            for name, value, more in found
        ],
        class_="tiles",
    )


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Child]],
    *,
    marked: Sequence[bool] | None = None,
    folding: bool = True,
) -> Html:
    """A table whose rows fold into blocks where the page is narrow; the first column names them.

    `marked` are the rows that want attention. One of a few narrow columns need not fold.
    """
    heads = [element("th", column.title, class_=_kind(column), scope="col") for column in columns]
    body = []
    for number, row in enumerate(rows):
        cells = [
            element("th", value, scope="row")
            if index == 0
            else element("td", value, class_=_kind(column), data_label=column.title)
            for index, (column, value) in enumerate(zip(columns, row, strict=True))
        ]
        body.append(element("tr", cells, class_="worse" if marked and marked[number] else None))
    return element(
        "table",
        element("thead", element("tr", heads)),
        element("tbody", body),
        class_="folding" if folding else None,
    )


def _kind(column: Column) -> str | None:
    return None if column.kind == "text" else column.kind


def card(title: Child, *body: Child, wide: bool = False) -> Html:
    """A block of its own."""
    return element(
        "article",
        element("h3", title),
        *body,
        class_="card wide" if wide else "card",
    )


def cards(*blocks: Child) -> Html:
    """Blocks beside each other, as many as there is room for."""
    return element("div", *blocks, class_="cards")


def lead(*text: Child) -> Html:
    """What a section shows, in a sentence or two."""
    return element("p", *text, class_="lead")


def fold(summary: Child, *body: Child) -> Html:
    """What is there for who wants it."""
    return element("details", element("summary", summary), *body)


def notes(lines: Sequence[Child]) -> Html:
    """Sentences, one below the other."""
    return element("ul", [element("li", line) for line in lines], class_="notes")


def facts(pairs: Sequence[tuple[Child, Child]]) -> Html:
    """Names and values."""
    return element(
        "dl",
        [join(element("dt", name), element("dd", value)) for name, value in pairs],
        class_="facts",
    )


def legend(*entries: tuple[str, str]) -> Html:
    """What the colours mean: the class of a swatch and its name."""
    return element(
        "div",
        [
            element("span", element("span", class_=f"swatch {kind}".strip()), name)
            for kind, name in entries
        ],
        class_="legend",
    )


def plain(value: object, depth: int = 0) -> Html:
    """Any value that JSON can hold, for evidence whose names are not known beforehand."""
    if depth > _DEEPEST:
        return Html("…")
    if isinstance(value, Mapping):
        told = with_intervals(value)
        return facts([(words(key), _told(key, one, depth)) for key, one in told.items()])
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _listed(value, depth)
    return element("span", scalar(value))


def with_intervals(evidence: Mapping[str, object]) -> dict[str, object]:
    """Evidence with a value and its interval as one entry instead of three."""
    told = {str(key): one for key, one in evidence.items()}
    middle = next((name for name in ("value", "advantage") if name in told), "")
    value, low, high = (told.get(name) for name in (middle, "low", "high"))
    if not (isinstance(value, float) and isinstance(low, float) and isinstance(high, float)):
        return told
    # As many decimals for all three: beyond those of the interval's length none says anything.
    decimals = max(0, 2 - math.floor(math.log10(high - low))) if high > low else 4
    written = f"{value:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"
    return {
        name: written if name == middle else one
        for name, one in told.items()
        if name not in ("low", "high")
    }


def _told(name: str, value: object, depth: int) -> Html:
    """A value by its name: a probability may be too small for its digits to say anything."""
    if name.startswith("p_") and isinstance(value, float) and value < 1e-4:
        return element("span", "below 0.0001")
    return plain(value, depth + 1)


def scalar(value: object) -> str:
    """One value of evidence, in words."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return numbers.count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return numbers.quantity(value)
    text = str(value)
    if _MOMENT.match(text):
        return numbers.when(datetime.fromisoformat(text))
    return shown(text, longest=2000)


def words(name: str) -> str:
    """A name of the code as words: `no_signal` is no signal."""
    return shown(name.replace("_", " "))


def _listed(values: Sequence[object], depth: int) -> Html:
    if not values:
        return element("span", "none", class_="soft")
    if len(values) > _LONGEST:
        more = element("p", f"and {len(values) - _LONGEST:,} more", class_="soft")
        return join(_listed(values[:_LONGEST], depth), more)
    rows = [value for value in values if isinstance(value, Mapping)]
    if len(rows) == len(values):
        names = list(dict.fromkeys(str(name) for row in rows for name in row))
        return table(
            [Column(title=words(name)) for name in names],
            [[plain(row.get(name), depth + 1) for name in names] for row in rows],
        )
    if all(isinstance(value, (str, int, float, bool)) or value is None for value in values):
        return element("span", ", ".join(scalar(value) for value in values))
    return notes([plain(value, depth + 1) for value in values])
