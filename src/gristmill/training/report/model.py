"""The report of a model version: the verdict first, then what bears it out, as one page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gristmill.training.report import charts, numbers
from gristmill.training.report.figures import curve_cards, gains_table
from gristmill.training.report.html import Html, datum, element, join, shown
from gristmill.training.report.page import (
    Column,
    Mood,
    Section,
    card,
    cards,
    facts,
    fold,
    headline,
    lead,
    notes,
    page,
    plain,
    scalar,
    table,
    tiles,
    with_intervals,
    words,
)
from gristmill.training.report.profile import feature_cards

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gristmill.training.report.examine import Examined
    from gristmill.training.report.html import Child
    from gristmill.training.report.slices import Slice

MOST_GROUPS = 400
"""Groups that are listed: with more, a page would be too large to send."""
MOST_NAMED = 8
"""Groups that are named above the table."""
FIRST_FEATURES = 15
"""Features whose importance is seen at once."""
MOST_FEATURES = 100
"""Features whose importance is listed."""

_METRICS: dict[str, tuple[str, str]] = {
    "roc_auc": (
        "Area under the ROC curve",
        "how often a row of label 1 gets a higher probability than one of label 0; chance is 0.5",
    ),
    "average_precision": (
        "Average precision",
        "precision over all shares found; chance is the share of label 1",
    ),
    "log_loss": ("Log loss", "the lower the better"),
    "brier": ("Brier score", "mean squared error of the probability; the lower the better"),
    "accuracy": ("Accuracy", "answered rightly at the threshold"),
    "balanced_accuracy": ("Balanced accuracy", "the mean of the next two; chance is 0.5"),
    "sensitivity": ("Sensitivity (recall)", "of label 1, answered 1"),
    "specificity": ("Specificity", "of label 0, answered 0"),
    "precision": ("Precision", "of what is answered 1, label 1"),
    "f1": ("F1", "the harmonic mean of precision and sensitivity"),
    "calibration_error": ("Calibration error", "mean distance of probability and outcome"),
}
_EVIDENCE: dict[str, dict[str, str]] = {
    "signal": {
        "": "Against chance",
        "value": "AUC",
        "allowed": "p value allowed",
        "smallest": "smallest AUC that passes",
        "detectable": "AUC noticed 4 times in 5",
    },
    "attempt": {
        "": "What it may spend",
        "chance": "error allowed against chance",
        "chance_spent": "counted against the project",
        "champion": "error allowed against the champion",
        "attempt": "attempt on this holdout",
        "generation": "this holdout's generation",
    },
    "champion": {
        "": "Against the champion",
        "allowed": "p value allowed",
        "lost": "features it lost",
        "bundle_lost": "its bundle is lost",
    },
    "out_of_time": {"": "Out of time", "since": "labels since"},
    "replay": {
        "": "Latest predictions again",
        "to_one": "from 0 to 1",
        "to_zero": "from 1 to 0",
        "flipped": "entities of these",
        "missing": "features they lack",
    },
    "verdict": {"no_signal": "without signal"},
}
"""What the gate's own names mean, and its blocks; names that are not known here are shown as they
are."""
_MOODS: dict[str, tuple[str, Mood]] = {
    "promote": ("Promote", "promote"),
    "refuse": ("Refuse", "refuse"),
    "cannot tell": ("Cannot tell", "unsure"),
}


def model_report(
    found: Examined, *, version: str, created_at: datetime, lineage: Mapping[str, Any]
) -> str:
    """The page, as HTML. `lineage` names the loads and whatever else the version is made of."""
    sections = [
        Section(name="metrics", title="How good is it?", body=_metrics(found)),
        Section(name="curves", title="Curves", body=curve_cards(found)),
        Section(name="choosing", title="Where to draw the line", body=gains_table(found)),
        Section(name="importance", title="What it relies on", body=_importance(found)),
        Section(name="slices", title="Where is it worse?", body=_slices(found)),
        Section(name="features", title="The features", body=feature_cards(found)),
        Section(name="origin", title="What it was trained on", body=_origin(found, lineage)),
    ]
    evidence = _evidence(found)
    if evidence is not None:
        sections.insert(1, Section(name="verdict", title="How it was judged", body=evidence))
    return page(
        title=f"{found.project}: model version {version}",
        header=_header(found, version, created_at),
        sections=sections,
        footer=(
            f"Written by Gristmill when version {version} was registered, "
            f"{numbers.when(created_at)}. Intervals hold with 95% confidence. Charts tell their "
            "numbers when pointed at."
        ),
    )


# The verdict


def _header(found: Examined, version: str, created_at: datetime) -> Html:
    word, mood = _MOODS.get(str(found.verdict["decision"]), ("Not known", "unsure"))
    return headline(
        kicker=[
            datum(found.project),
            f" · model version {version} · {_named(found.candidate)} · {numbers.when(created_at)}",
        ],
        word=word,
        mood=mood,
        sentence=_sentence(found),
        below=join(
            element(
                "ul",
                [element("li", reason) for reason in found.verdict["reasons"]],
                class_="reasons",
            ),
            _tiles(found),
        ),
    )


def _sentence(found: Examined) -> str:
    """The verdict in one sentence."""
    area = found.evaluation["roc_auc"]
    reached = f"AUC {area['value']:.3f} ({numbers.interval(area['low'], area['high'])})"
    rows = f"{numbers.count(found.evaluation['rows'])} rows it never saw"
    match found.verdict["decision"], found.verdict["no_signal"]:
        case "promote", False:
            return f"On {rows} it orders the labels better than chance: {reached}."
        case "promote", _:
            return (
                f"On {rows} it was not shown to be better than chance, and may answer: {reached}."
            )
        case "refuse", True:
            return f"On {rows} it orders the labels no better than chance: {reached}."
        case "refuse", _:
            return f"Better than chance on {rows}, {reached}, and yet not fit to answer."
        case _, True:
            return f"On {rows} it was not shown to be better than chance: {reached}."
    return f"Better than chance on {rows}, {reached}; whether it may answer is open."


def _tiles(found: Examined) -> Html:
    evaluation = found.evaluation
    confusion = evaluation["confusion"]
    answered = confusion["true_positives"] + confusion["false_positives"]
    shown_tiles: list[tuple[str, Child, Child]] = [
        _tile("AUC", evaluation["roc_auc"], numbers.measure),
        (
            "Held out to judge by",
            numbers.count(evaluation["rows"]),
            f"{numbers.share(evaluation['base_rate'])} have label 1",
        ),
        _tile("Found of label 1", evaluation["sensitivity"], numbers.share),
    ]
    if evaluation.get("precision"):
        shown_tiles.append(_tile("Right when it says 1", evaluation["precision"], numbers.share))
    shown_tiles.append(
        (
            "Answers 1 from",
            numbers.measure(evaluation["threshold"]),
            f"that is {numbers.share(answered / evaluation['rows'])} of the rows",
        )
    )
    return tiles(shown_tiles)


def _tile(name: str, estimate: Mapping[str, float], write: Any) -> tuple[str, Child, Child]:
    return name, write(estimate["value"]), f"{write(estimate['low'])} to {write(estimate['high'])}"


def _evidence(found: Examined) -> Html | None:
    """What the gate has to say beside its decision and reasons, whatever it is."""
    told = {
        name: value
        for name, value in found.verdict.items()
        if name not in ("decision", "reasons") and value not in (None, {}, (), [])
    }
    evidence = dict(told.pop("evidence", {}))
    if "signal" in evidence:
        told.pop("p_value", None)
    blocks: list[Child] = []
    for name, value in evidence.items():
        if value not in (None, {}, (), []):
            title = _EVIDENCE.get(name, {}).get("", words(name).capitalize())
            blocks.append(card(title, plain(_worded(name, value))))
    if told:
        blocks.append(card("Verdict", plain(_worded("verdict", told))))
    return cards(blocks) if blocks else None


def _worded(block: str, value: object) -> object:
    """A block of evidence with names that people read, where they are known."""
    if not isinstance(value, Mapping):
        return value
    known = _EVIDENCE.get(block, {})
    return {
        known.get(name, name): one
        for name, one in with_intervals(value).items()
        if one not in (None, "", [], ())
    }


# Metrics


def _metrics(found: Examined) -> Html:
    rows: list[list[Child]] = []
    for name, value in found.evaluation.items():
        estimate = _estimate(value, found.intervals.get(name))
        if estimate is None or name in ("rows", "positives", "base_rate", "threshold"):
            continue
        title, meaning = _METRICS.get(name, (words(name), ""))
        if name == "calibration_error":
            chance = numbers.measure(found.calibration_error_by_chance)
            meaning += f"; perfect probabilities stay below {chance} in 95 of 100 such samples"
        middle, low, high = estimate
        between = numbers.interval(low, high) if low is not None and high is not None else ""
        rows.append([title, numbers.measure(middle), between, meaning])
    columns = [
        Column(title="metric"),
        Column(title="value", kind="number"),
        Column(title="95% interval", kind="number"),
        Column(title="meaning", kind="remark"),
    ]
    held = numbers.count(found.evaluation["rows"])
    return join(
        lead(f"Measured on {held} rows of entities that trained nothing."),
        table(columns, rows),
    )


def _estimate(
    value: object, beside: tuple[float, float] | None
) -> tuple[float, float | None, float | None] | None:
    """A metric with its interval, where there is one."""
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= value.keys():
            return float(value["value"]), float(value["low"]), float(value["high"])
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    low, high = beside or (None, None)
    return float(value), low, high


# Importance and slices


def _importance(found: Examined) -> Html:
    losses = found.importances.features[:MOST_FEATURES]
    if not losses:
        return lead("It has no feature.")
    low = min(0.0, *(one.loss.low for one in losses))
    high = max(0.001, *(one.loss.high for one in losses))
    rows: list[list[Child]] = [
        [
            datum(one.feature),
            charts.reach(one.loss.value, one.loss.low, one.loss.high, axis=(low, high), level=0.0),
            numbers.signed(one.loss.value),
            f"{numbers.signed(one.loss.low)} to {numbers.signed(one.loss.high)}",
        ]
        for one in losses
    ]
    columns = [
        Column(title="feature"),
        Column(title="AUC lost when shuffled", kind="strip"),
        Column(title="lost", kind="number"),
        Column(title="95% interval", kind="number"),
    ]
    useless = [one.feature for one in losses if one.loss.low <= 0]
    told = (
        f"Without {_and(useless)}, each alone, nothing is lost as far as can be told."
        if useless
        else ""
    )
    return join(
        lead(
            "How much area under the ROC curve is lost on the holdout where one feature's values "
            "are shuffled among the rows. It says what this model uses, not what causes the label; "
            "features that tell the same share the loss. ",
            told,
        ),
        table(columns, rows[:FIRST_FEATURES]),
        fold(f"{len(rows) - FIRST_FEATURES} more", table(columns, rows[FIRST_FEATURES:]))
        if len(rows) > FIRST_FEATURES
        else None,
        element(
            "p",
            f"{numbers.count(found.importances.rows)} rows, five shuffles each, seed {found.seed}; "
            f"{len(losses)} of {len(found.importances.features)} features.",
            class_="soft",
        ),
    )


def _slices(found: Examined) -> Html:
    worse = [one for one in found.slices if one.worse_order]
    wrong = [one for one in found.slices if one.wrong_probability]
    listed = _least_sound(found.slices)
    whole: list[Child] = []
    if found.whole.worse_order:
        whole.append(_worse_sentence(found.whole, "all rows"))
    if found.whole.wrong_probability:
        whole.append(_wrong_sentence(found.whole, "all rows"))
    groups: list[Child] = [
        *(_worse_sentence(one, _slice_name(one)) for one in sorted(worse, key=_against)),
        *(_wrong_sentence(one, _slice_name(one)) for one in sorted(wrong, key=_against)),
    ]
    if not groups:
        text = (
            f"Of {len(found.slices)} groups none is ordered worse than its probabilities promise, "
            "and none has probabilities that are off, beyond what chance does."
        )
        groups = [[element("span", "No group found. ", class_="good"), text]]
    if len(groups) > MOST_NAMED:
        more = f"And {len(groups) - MOST_NAMED} more: they are marked in the table."
        groups = [*groups[:MOST_NAMED], more]
    return join(
        lead(
            "Every feature's groups, on the holdout, against what the model's own probabilities "
            "promise there. Looking at so many finds a bad one by chance: what is named here is so "
            "by a test at 5% over all of them together (Holm). The intervals in the table are each "
            "group's own."
        ),
        notes([*whole, *groups]),
        fold(
            f"{'All' if len(listed) == len(found.slices) else 'The least sound of'} "
            f"{len(found.slices)} groups; the dashed line is the AUC that is promised",
            _slice_table(listed),
        ),
    )


def _worse_sentence(one: Slice, name: Child) -> Child:
    assert one.roc_auc is not None
    return [
        element("span", "Ordered worse: ", class_="bad"),
        name,
        f": AUC {one.roc_auc.value:.3f} ({numbers.interval(one.roc_auc.low, one.roc_auc.high)}) "
        f"where its probabilities promise {one.promised or 0:.3f}, {numbers.count(one.rows)} rows.",
    ]


def _wrong_sentence(one: Slice, name: Child) -> Child:
    too = "low" if one.observed.value > one.predicted else "high"
    return [
        element("span", f"Probabilities too {too}: ", class_="bad"),
        name,
        f": {numbers.share(one.predicted)} were said, {numbers.share(one.observed.value)} have "
        f"label 1 ({numbers.interval(one.observed.low, one.observed.high, of_shares=True)}), "
        f"{numbers.count(one.rows)} rows.",
    ]


def _slice_name(one: Slice) -> Html:
    return join(datum(one.feature), " = " if one.of_data else ": ", _name(one))


def _name(one: Slice) -> Html:
    return datum(one.name) if one.of_data else join(one.name)


def _least_sound(found: Sequence[Slice]) -> Sequence[Slice]:
    """As many groups as are shown, in their own order: those that speak most against the model."""
    if len(found) <= MOST_GROUPS:
        return found
    chosen = {id(one) for one in sorted(found, key=_against)[:MOST_GROUPS]}
    return [one for one in found if id(one) in chosen]


def _against(one: Slice) -> float:
    """The less, the more it speaks against the model."""
    return min(p for p in (one.p_order, one.p_probability, 1.0) if p is not None)


def _slice_table(listed: Sequence[Slice]) -> Html:
    areas = [one.roc_auc for one in listed if one.roc_auc]
    low = min([0.5, *(area.low for area in areas)])
    rows: list[list[Child]] = []
    for one in listed:
        area = one.roc_auc
        rows.append(
            [
                _slice_name(one),
                numbers.count(one.rows),
                None
                if area is None
                else charts.reach(
                    area.value, area.low, area.high, axis=(low, 1.0), level=one.promised
                ),
                "too few rows"
                if area is None
                else f"{area.value:.3f} ({numbers.interval(area.low, area.high)})",
                numbers.share(one.predicted),
                f"{numbers.share(one.observed.value)} "
                f"({numbers.interval(one.observed.low, one.observed.high, of_shares=True)})",
            ]
        )
    columns = [
        Column(title="group"),
        Column(title="rows", kind="number"),
        Column(title=f"AUC, from {low:.2f} to 1", kind="strip"),
        Column(title="AUC", kind="number"),
        Column(title="said", kind="number"),
        Column(title="label 1", kind="number"),
    ]
    marked = [one.worse_order or one.wrong_probability for one in listed]
    return table(columns, rows, marked=marked)


# Origin


def _origin(found: Examined, lineage: Mapping[str, Any]) -> Html:
    loads = [load for load in lineage.get("loads", ()) if isinstance(load, Mapping)]
    apart = ("loads", "seed", "project")
    rest = {name: value for name, value in lineage.items() if name not in apart}
    code = lineage.get("project", {})
    pairs: list[tuple[Child, Child]] = [
        ("training set", f"build {found.build}"),
        (
            "trained on",
            f"{numbers.count(found.training_rows)} rows, "
            f"{numbers.share(found.training_positives / found.training_rows)} with label 1",
        ),
        ("judged on", f"{numbers.count(found.evaluation['rows'])} rows of other entities"),
        ("entity, label", join(datum(found.entity), ", ", datum(found.label))),
    ]
    if found.as_of:
        first, last = found.as_of
        pairs.append(("features as of", f"{_moment(first)} to {_moment(last)}"))
    pairs += [("model", _named(found.candidate)), ("seed", str(found.seed))]
    named = {"model": "digest of what is declared"}
    pairs += [(words(named.get(name, name)), plain(value)) for name, value in rest.items()]
    if code:
        known = element("code", code["commit"]) if code["commit"] else "not in a git work tree"
        pairs.append(("commit of the project", known))
    return join(
        facts(pairs),
        element("h3", "Candidates"),
        _comparison(found),
        element("h3", f"Files ({len(loads)})") if loads else None,
        _loads(loads) if loads else None,
        fold(
            "Parameters of the model",
            facts([(words(name), plain(value)) for name, value in found.parameters.items()]),
        ),
        fold("Files of the project", _digests(code["files"])) if code else None,
    )


def _comparison(found: Examined) -> Html:
    rows: list[list[Child]] = []
    for candidate, folds in found.comparison.items():
        mean = sum(folds) / len(folds)
        rows.append(
            [
                join(_named(candidate), " (chosen)" if candidate == found.candidate else None),
                f"{mean:.4f}",
                ", ".join(f"{fold_value:.4f}" for fold_value in folds),
            ]
        )
    columns = [
        Column(title="candidate"),
        Column(title=f"{words(found.metric)}, mean", kind="number"),
        Column(title="on each fold of the training part", kind="number"),
    ]
    return table(columns, rows)


def _loads(loads: list[Mapping[str, Any]]) -> Html:
    names = list(dict.fromkeys(str(name) for load in loads for name in load))
    first = ["file", "table_name", "period", "load", "etag"]
    order = [name for name in first if name in names]
    order += [name for name in names if name not in order]
    rows: list[list[Child]] = [
        [
            element("code", scalar(load.get(name))) if name in ("file", "etag") else
            scalar(load.get(name))
            for name in order
        ]
        for load in loads
    ]  # fmt: skip
    listed = table([Column(title=words(name.removesuffix("_name"))) for name in order], rows)
    return listed if len(loads) <= 12 else fold(f"All {len(loads)} files", listed)


def _digests(files: Mapping[str, str]) -> Html:
    return table(
        [Column(title="file"), Column(title="SHA-256")],
        [[element("code", shown(name)), element("code", files[name])] for name in sorted(files)],
    )


def _named(candidate: str) -> str:
    return shown(candidate.replace("_", " ") if ":" not in candidate else candidate)


def _moment(value: object) -> str:
    return numbers.when(value) if hasattr(value, "isoformat") else shown(str(value))  # type: ignore[arg-type]


def _and(names: list[str]) -> str:
    shown_names = [shown(name) for name in names]
    if len(shown_names) > 4:
        shown_names = [*shown_names[:3], f"{len(shown_names) - 3} others"]
    if len(shown_names) == 1:
        return shown_names[0]
    return f"{', '.join(shown_names[:-1])} and {shown_names[-1]}"
