"""Charts as SVG inside the page: drawn for a width of 340, at which they stand on a phone.

Colours and strokes are the page's (page.css); a chart names only what its marks mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.training.report import numbers
from gristmill.training.report.html import Html, element, join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.project.features import FeatureType

    Point = tuple[float, float]

WIDTH, HEIGHT = 340, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 10, 40


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What a direction of a chart means."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1, not beyond."""
        reach = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / reach)) if reach else 0.5


def share_axis(title: str, high: float = 1.0) -> Axis:
    """From nothing to a share; to all of it, if no other is given."""
    end = min(1.0, high) if high > 0 else 1.0
    places = numbers.ticks(0.0, end, most=6)
    return Axis(
        title=title, low=0.0, high=end, ticks=tuple((one, f"{100 * one:.4g}%") for one in places)
    )


def value_ticks(high: float) -> tuple[tuple[float, str], ...]:
    """Round counts from nothing up."""
    return tuple((one, numbers.short(one)) for one in numbers.ticks(0.0, high, most=4))


def feature_axis(title: str, kind: FeatureType, low: float, high: float) -> Axis:
    """Over a feature's values as a model sees them, named as people write them."""
    if kind == "boolean":
        places = [(0.0, "false"), (1.0, "true")]
    elif kind in ("date", "timestamp"):
        days = 1.0 if kind == "date" else 86_400.0
        named = numbers.moment_ticks(low / days, high / days)
        places = [(place * days, name) for place, name in named]
    else:
        rounded = numbers.ticks(low, high)
        if kind == "integer":
            rounded = [one for one in rounded if one % 1 == 0]
        places = [(one, numbers.encoded(one, kind)) for one in rounded]
    inside = tuple((place, name) for place, name in places if low <= place <= high)
    return Axis(title=title, low=low, high=high, ticks=inside)


class Plot:
    """One chart: marks are drawn in the order in which they are asked for."""

    def __init__(self, *, x: Axis, y: Axis, height: int = HEIGHT) -> None:
        """Axes with their values; the marks come by the methods."""
        self._x, self._y, self._height = x, y, height
        self._bottom = height - (BOTTOM if x.title else BOTTOM - 16)
        self._marks: list[Html] = []

    def line(self, points: Sequence[Point], kind: str) -> None:
        """A line through points; `kind` is its class: series, second, chance."""
        written = " ".join(f"{self._across(x):.1f},{self._up(y):.1f}" for x, y in points)
        self._marks.append(element("polyline", points=written, class_=f"line {kind}"))

    def steps(self, edges: Sequence[float], heights: Sequence[float], kind: str) -> None:
        """The outline of bars without the bars."""
        points = [(edges[0], 0.0)]
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
            points += [(left, height), (right, height)]
        self.line([*points, (edges[-1], 0.0)], kind)

    def bar(self, left: float, right: float, height: float, kind: str, told: str) -> None:
        """A bar from the axis up, with what is told of it when pointed at."""
        start, end = self._across(left), self._across(right)
        top = self._up(height)
        self._marks.append(
            element(
                "rect",
                element("title", told),
                x=start + 0.5,
                y=top,
                width=max(0.5, end - start - 1),
                height=max(0.0, self._up(0.0) - top),
                class_=f"bar {kind}",
            )
        )

    def whisker(self, x: float, low: float, high: float, value: float, told: str) -> None:
        """A value with its interval, upright."""
        across = self._across(x)
        self._marks.append(
            element(
                "g",
                element("title", told),
                element(
                    "line",
                    x1=across,
                    x2=across,
                    y1=self._up(low),
                    y2=self._up(high),
                    class_="reach",
                ),
                element("circle", cx=across, cy=self._up(value), r=3.5, class_="dot"),
            )
        )

    def dot(self, x: float, y: float, told: str) -> None:
        """One point that matters."""
        self._marks.append(
            element(
                "circle",
                element("title", told),
                cx=self._across(x),
                cy=self._up(y),
                r=5.0,
                class_="here",
            )
        )

    def level(self, y: float, text: str = "") -> None:
        """A horizontal line to compare with, and its name."""
        up = self._up(y)
        self._marks.append(
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=up, y2=up, class_="line chance")
        )
        if text:
            above = up - 5 if up > TOP + 16 else up + 14
            self._marks.append(
                element("text", text, x=WIDTH - RIGHT, y=above, class_="note", text_anchor="end")
            )

    def upright(self, x: float, text: str = "") -> None:
        """A vertical line to compare with, and its name."""
        across = self._across(x)
        self._marks.append(
            element("line", x1=across, x2=across, y1=TOP, y2=self._up(self._y.low), class_="mark")
        )
        if text:
            left = across > WIDTH / 2
            self._marks.append(
                element(
                    "text",
                    text,
                    x=across - 5 if left else across + 5,
                    y=TOP + 11,
                    class_="note",
                    text_anchor="end" if left else None,
                )
            )

    def svg(self, description: str) -> Html:
        """The chart; its description is what those hear who cannot see it."""
        return element(
            "svg",
            element("title", description),
            self._grid(),
            self._marks,
            viewBox=f"0 0 {WIDTH} {self._height}",
            role="img",
            aria_label=description,
            class_="chart",
        )

    def _grid(self) -> Html:
        bottom = self._up(self._y.low)
        lines = [
            join(
                element(
                    "line",
                    x1=LEFT, x2=WIDTH - RIGHT, y1=self._up(value), y2=self._up(value),
                    class_="grid",
                ),
                element("text", name, x=LEFT - 6, y=self._up(value) + 4, text_anchor="end"),
            )
            for value, name in self._y.ticks
        ]  # fmt: skip
        names = [
            element("text", name, x=self._across(value), y=bottom + 16, text_anchor=anchor)
            for value, name in self._x.ticks
            for anchor in [_anchor(self._x.place(value), name)]
        ]
        middle = (LEFT + WIDTH - RIGHT) / 2
        turned = (TOP + bottom) / 2
        return join(
            lines,
            element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis"),
            names,
            element(
                "text", self._x.title, x=middle, y=self._height - 5, text_anchor="middle",
                class_="title",
            ),
            element(
                "text", self._y.title, x=10, y=turned, text_anchor="middle", class_="title",
                transform=f"rotate(-90 10 {turned:.0f})",
            ),
        )  # fmt: skip

    def _across(self, value: float) -> float:
        return LEFT + self._x.place(value) * (WIDTH - RIGHT - LEFT)

    def _up(self, value: float) -> float:
        return self._bottom - self._y.place(value) * (self._bottom - TOP)


def _anchor(place: float, name: str) -> str:
    """Names at the ends of an axis stay inside of the chart."""
    return "end" if len(name) > 5 and place > 0.93 else "middle"


def spark(heights: Sequence[float], description: str) -> Html:
    """A shape at a glance: bars without an axis."""
    highest = max(heights, default=0.0) or 1.0
    wide = 120 / max(1, len(heights))
    # One path: a page may hold hundreds of these.
    path = "".join(
        f"M{index * wide:.1f} 28v-{max(1.0, 28 * one / highest):.1f}h{max(0.5, wide - 1):.1f}V28z"
        for index, one in enumerate(heights)
        if one
    )
    return element(
        "svg",
        element("title", description),
        element("path", d=path, class_="bar main"),
        viewBox="0 0 120 28",
        preserveAspectRatio="none",
        role="img",
        aria_label=description,
        class_="spark",
    )


def length(part: float, *, beside: float | None = None) -> Html:
    """A share as a bar across; the share of another sample as a mark on it."""
    return element(
        "svg",
        element("rect", x=0, y=0, width=100, height=12, class_="track"),
        element(
            "rect", x=0, y=0, width=100 * min(1.0, max(0.0, part)), height=12, class_="bar main"
        ),
        None if beside is None else _thin(100 * beside, 0, 12, "beside"),
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="strip",
    )


def reach(
    value: float, low: float, high: float, *, axis: tuple[float, float], level: float | None = None
) -> Html:
    """A value with its interval across, beside a level that others are compared with."""
    start, end = axis
    wide = (end - start) or 1.0

    def place(one: float) -> float:
        return min(100.0, max(0.0, 100 * (one - start) / wide))

    dot = place(value)
    return element(
        "svg",
        None if level is None else _thin(place(level), 0, 12, "chance"),
        element("line", x1=place(low), x2=place(high), y1=6, y2=6, class_="reach"),
        # A line without length under a round cap stays a round dot however the strip is stretched.
        element("line", x1=dot, x2=dot + 0.01, y1=6, y2=6, class_="point"),
        viewBox="0 0 100 12",
        preserveAspectRatio="none",
        aria_hidden="true",
        class_="strip",
    )


def _thin(across: float, top: float, bottom: float, kind: str) -> Html:
    return element("line", x1=across, x2=across, y1=top, y2=bottom, class_=f"line {kind}")
