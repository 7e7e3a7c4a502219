"""The curves of a model's report, and the table for choosing a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.training.report import numbers
from gristmill.training.report.charts import Plot, share_axis
from gristmill.training.report.curves import taken
from gristmill.training.report.html import Html, element, join
from gristmill.training.report.page import Column, card, cards, lead, legend, table

if TYPE_CHECKING:
    from gristmill.training.report.examine import Examined
    from gristmill.training.report.html import Child


def curve_cards(found: Examined) -> Html:
    """ROC, precision and recall, calibration, gain, probabilities and confusion."""
    return join(
        lead("The dashed line is what chance does; the large point is the threshold."),
        cards(
            _roc(found),
            _precision_recall(found),
            _calibration(found),
            _gain(found),
            _probabilities(found),
            _confusion(found),
        ),
    )


def _roc(found: Examined) -> Html:
    evaluation = found.evaluation
    area, sensitivity = evaluation["roc_auc"], evaluation["sensitivity"]["value"]
    wrong = 1 - evaluation["specificity"]["value"]
    plot = Plot(x=share_axis("of label 0, answered 1"), y=share_axis("of label 1, answered 1"))
    plot.line([(0, 0), (1, 1)], "chance")
    plot.line(found.ranking.roc, "series")
    plot.dot(wrong, sensitivity, f"{numbers.share(wrong)} by {numbers.share(sensitivity)}")
    return card(
        "ROC",
        element(
            "p",
            f"AUC {area['value']:.3f} ({numbers.interval(area['low'], area['high'])}). At the "
            f"threshold it finds {numbers.share(sensitivity)} of label 1 and takes "
            f"{numbers.share(wrong)} of label 0 for it.",
        ),
        plot.svg(f"ROC curve with an area of {area['value']:.3f}"),
    )


def _precision_recall(found: Examined) -> Html:
    evaluation = found.evaluation
    base, average = evaluation["base_rate"], evaluation["average_precision"]
    value = average["value"] if isinstance(average, dict) else average
    low, high = (
        (average["low"], average["high"])
        if isinstance(average, dict)
        else found.intervals["average_precision"]
    )
    plot = Plot(x=share_axis("found, of label 1 (recall)"), y=share_axis("right (precision)"))
    plot.level(base, f"chance {numbers.share(base)}")
    plot.line(found.ranking.precision_recall, "series")
    if evaluation["precision"]:
        recall, precision = evaluation["sensitivity"]["value"], evaluation["precision"]["value"]
        plot.dot(recall, precision, f"{numbers.share(recall)} by {numbers.share(precision)}")
    return card(
        "Precision and recall",
        element(
            "p",
            f"Average precision {value:.3f} ({numbers.interval(low, high)}); chance reaches "
            f"{base:.3f}.",
        ),
        plot.svg(f"Precision by recall, average precision {value:.3f}"),
    )


def _calibration(found: Examined) -> Html:
    said = found.calibration
    end = max(0.1, *(max(one.probability, one.observed.high) for one in said))
    end = 1.0 if end > 0.7 else end
    plot = Plot(x=share_axis("probability said", end), y=share_axis("share of label 1", end))
    plot.line([(0, 0), (end, end)], "chance")
    for one in said:
        observed = one.observed
        plot.whisker(
            one.probability, observed.low, observed.high, observed.value,
            f"{numbers.count(one.rows)} rows: said {numbers.share(one.probability)}, "
            f"true {numbers.share(observed.value)} "
            f"({numbers.interval(observed.low, observed.high, of_shares=True)})",
        )  # fmt: skip
    error = found.evaluation["calibration_error"]
    error = error["value"] if isinstance(error, dict) else error
    chance = found.calibration_error_by_chance
    told = (
        "no more than perfect probabilities would show"
        if error <= chance
        else f"perfect probabilities would stay below {numbers.share(chance)}"
    )
    return card(
        "Calibration",
        element("p", f"Off by {numbers.share(error)} on average: {told}. Ten bins of equal size."),
        plot.svg("What was said against what was true, in ten bins"),
    )


def _gain(found: Examined) -> Html:
    plot = Plot(x=share_axis("rows taken, highest first"), y=share_axis("found, of label 1"))
    plot.line([(0, 0), (1, 1)], "chance")
    base = found.evaluation["base_rate"]
    plot.line([(0, 0), (base, 1), (1, 1)], "second")
    plot.line(found.ranking.gain, "series")
    tenth = next((one for one in taken(found.ranking) if one.share >= 0.1), None)
    told = (
        f"The highest {100 * tenth.share:.3g}% hold {numbers.share(tenth.recall)} of label 1: "
        f"{tenth.lift:.1f} times as many as chance."
        if tenth
        else "Too few different probabilities to take a tenth of the rows."
    )
    return card(
        "Gain",
        element("p", told),
        legend(("line-series", "this model"), ("line-second", "a perfect one")),
        plot.svg("Share of label 1 found by share of rows taken"),
    )


def _probabilities(found: Examined) -> Html:
    edges, zeros, ones = found.histogram
    all_zeros, all_ones = max(1, sum(zeros)), max(1, sum(ones))
    of_zeros = [count / all_zeros for count in zeros]
    of_ones = [count / all_ones for count in ones]
    highest = max([*of_zeros, *of_ones])
    plot = Plot(x=share_axis("probability said"), y=share_axis("share of its label", highest))
    for left, right, height, rows in zip(edges[:-1], edges[1:], of_zeros, zeros, strict=True):
        told = f"{numbers.share(left)} to {numbers.share(right)}: {rows:,} rows of label 0"
        plot.bar(left, right, height, "other", told)
    plot.steps(edges, of_ones, "series")
    threshold = found.evaluation["threshold"]
    plot.upright(threshold, f"threshold {threshold:.3f}")
    return card(
        "Probabilities",
        element("p", "What was said of the rows of either label; apart is good."),
        legend(("other", "label 0"), ("line-series", "label 1")),
        plot.svg("Distribution of the probabilities by label"),
    )


def _confusion(found: Examined) -> Html:
    counts = found.evaluation["confusion"]

    def cell(kind: str, right: bool, of: int) -> Html:
        rows = counts[kind]
        return element(
            "td",
            element("span", numbers.count(rows), class_="big"),
            f"{numbers.share(rows / of)} ",
            element("span", "right" if right else "wrong", class_="right" if right else "wrong"),
        )

    ones = counts["true_positives"] + counts["false_negatives"]
    zeros = counts["true_negatives"] + counts["false_positives"]
    body = [
        element(
            "tr", element("th", f"label 1 ({ones:,})", scope="row"),
            cell("true_positives", True, ones), cell("false_negatives", False, ones),
        ),
        element(
            "tr", element("th", f"label 0 ({zeros:,})", scope="row"),
            cell("false_positives", False, zeros), cell("true_negatives", True, zeros),
        ),
    ]  # fmt: skip
    heads = [element("th", name, scope="col", class_="number") for name in ("says 1", "says 0")]
    threshold = found.evaluation["threshold"]
    return card(
        "Confusion",
        element("p", f"The answer is 1 from a probability of {threshold:.4f} on."),
        element(
            "table",
            element("thead", element("tr", element("td"), heads)),
            element("tbody", body),
            class_="confusion",
        ),
    )


def gains_table(found: Examined) -> Html:
    """What is found where only the rows with the highest probabilities are taken."""
    rows: list[list[Child]] = [
        [
            f"{100 * one.share:.2g}%",
            numbers.count(one.rows),
            f"{one.threshold:.4f}",
            f"{numbers.share(one.precision.value)} "
            f"({numbers.interval(one.precision.low, one.precision.high, of_shares=True)})",
            numbers.share(one.recall),
            f"{one.lift:.2f}",
        ]
        for one in taken(found.ranking)
    ]
    text = lead(
        "If only so many can be acted on, the highest probabilities first: how many of them are "
        "right, and what share of all label 1 they are."
    )
    if not rows:
        return join(text, element("p", "All rows have about the same probability."))
    columns = [
        Column(title="share of rows"),
        Column(title="rows", kind="number"),
        Column(title="probability from", kind="number"),
        Column(title="right (precision)", kind="number"),
        Column(title="found (recall)", kind="number"),
        Column(title="lift", kind="number"),
    ]
    return join(text, table(columns, rows))
