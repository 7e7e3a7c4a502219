"""Proves that a graph answers as the fitted model that it was written from.

It compares on rows that were trained on and on rows made to hurt, and refuses a graph that answers
one of them otherwise, or one row otherwise alone than in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import ExportError
from gristmill.features.encode import NULL_TEXT
from gristmill.project.model import BUILT_IN_CANDIDATES
from gristmill.training import calendar
from gristmill.training.candidates import Blend, columns_of
from gristmill.training.convert import INSTEAD, compares_floats, trees_of
from gristmill.training.graph import OUTPUT
from gristmill.training.trees import histogram_trees, thresholds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.training.fit import FittedModel
    from gristmill.training.split import Sample

MOST_ROWS_TO_PROVE = 200_000
MOST_TEXTS_TO_PROBE = 1_000
MOST_SPLITS_TO_PROBE = 5_000
"""… of each column of a project's own trees, evenly chosen where there are more."""
ALONE = 64
"""Rows that are answered alone and in batches as well."""
LARGEST_DIFFERENCE = 1e-9
"""Rounding differs by about 1e-15; more than this is another model."""
LANES = 4
"""Batches are padded to a multiple of this, as in answering."""

_UNSEEN_TEXT = "\x00unseen"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What was compared to prove that graph and fitted model answer the same."""

    rows: int
    """Rows of the training part."""
    probes: int
    """Rows made to hurt: at and beside each split, null, unseen and empty."""
    largest_difference: float
    """The greatest absolute difference of two probabilities."""
    flips: int
    """Rows answered otherwise; always 0 in a graph that was handed out."""


def prove(graph: bytes, model: FittedModel, training: Sample) -> Parity:
    """Compare the graph's answers with the model's; raises ExportError where they differ.

    Compared are the training rows (the first MOST_ROWS_TO_PROVE) and, on rows of theirs, each
    number at every split and one unit in the last place beside it, null, zero and the extremes of
    doubles; each text that the model tells apart, many that it does not, an unseen one, the empty
    one and null.
    """
    rows = {name: values[:MOST_ROWS_TO_PROVE] for name, values in training.inputs.items()}
    probes = make_probes(model, rows)
    session = open_session(graph, model.candidate)
    differences, flips = [], 0
    for inputs in (rows, probes):
        # The probes hold the greatest doubles, which scikit-learn adds up to look for NaN.
        with np.errstate(over="ignore", invalid="ignore"):
            expected = model.probabilities(inputs)
        answered = run(session, inputs)
        differences.append(float(np.abs(answered - expected).max()))
        flips += int(
            np.count_nonzero((answered >= model.threshold) != (expected >= model.threshold))
        )
    parity = Parity(
        rows=_length(rows),
        probes=_length(probes),
        largest_difference=max(differences),
        flips=flips,
    )
    # Written so that a NaN, which compares false, is refused as well.
    if flips or not parity.largest_difference <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"The graph of {model.candidate!r} does not answer as the fitted model does: on "
            f"{parity.rows + parity.probes:,} rows the largest difference is "
            f"{parity.largest_difference:.3g} and {flips:,} answers differ. "
            f"Nothing was registered. {_instead(model)}"
        )
    _check_batches(session, model, probes)
    return parity


def run_graph(graph: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """The graph's probabilities, of shape (rows,), on one thread and padded as when serving."""
    return run(open_session(graph, "the model"), inputs)


def open_session(graph: bytes, candidate: str) -> Any:
    """A graph, loaded to be run; raises ExportError where the runtime refuses it."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    refusals = (state.Fail, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except refusals as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(
            f"The graph of {candidate!r} cannot be run in double precision: {reason}. {INSTEAD}"
        ) from error


def run(session: Any, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """A loaded graph's probabilities, of shape (rows,)."""
    rows = _length(inputs)
    padded = {
        name: np.concatenate([values, np.repeat(values[-1:], -rows % LANES, axis=0)])
        for name, values in inputs.items()
    }
    (answers,) = session.run([OUTPUT], padded)
    return cast("NDArray[np.float64]", answers[:rows, 0])


def _check_batches(session: Any, model: FittedModel, inputs: Mapping[str, NDArray[Any]]) -> None:
    """A row must be answered alone, among a few and among many with the same bits."""
    everything = run(session, inputs)
    places = np.unique(np.linspace(0, len(everything) - 1, ALONE).astype(np.intp))
    few = {name: values[places] for name, values in inputs.items()}
    alone = [
        run(session, {name: values[row : row + 1] for name, values in few.items()})[0]
        for row in range(len(places))
    ]
    among_few = run(session, few)
    if not ((everything[places] == alone) & (everything[places] == among_few)).all():
        raise ExportError(
            f"The graph of {model.candidate!r} answers a row otherwise alone than in a batch. "
            f"Nothing was registered. {_instead(model)}"
        )


def _instead(model: FittedModel) -> str:
    if model.candidate in BUILT_IN_CANDIDATES:
        return "Another seed in [model] gives another model."
    return INSTEAD


# Rows made to hurt


def make_probes(model: FittedModel, rows: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Training rows, each with one feature put where graph and model could part."""
    changed = [
        (feature.name, value)
        for feature in model.features
        for value in (
            _text_probes(model, feature)
            if feature.type == "text"
            else _number_probes(_jumps(model, feature, rows[feature.name]))
        )
    ]
    bases = np.arange(len(changed) + 1) % _length(rows)
    probes = {name: values[bases].copy() for name, values in rows.items()}
    for row, (name, value) in enumerate(changed):
        probes[name][row, 0] = value
    for feature in model.features:  # the last row is null throughout
        probes[feature.name][-1, 0] = NULL_TEXT if feature.type == "text" else np.nan
    return probes


def pipelines(model: FittedModel) -> Iterator[tuple[str, Any]]:
    """The pipelines that the model is made of, with their candidates' names."""
    if isinstance(model.pipeline, Blend):
        yield from ((part.candidate, part.pipeline) for part in model.pipeline.parts)
    else:
        yield model.candidate, model.pipeline


def _jumps(
    model: FittedModel, feature: Feature, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the answer can jump, for a feature that is a number and has these values."""
    known_values = values[~np.isnan(values)]
    typical = float(np.median(known_values)) if len(known_values) else 0.0
    found = [np.empty(0)]
    for candidate, pipeline in pipelines(model):
        columns = pipeline.named_steps["columns"]
        classifier = pipeline.named_steps["classifier"]
        if candidate == "gradient_boosting":
            known = thresholds(histogram_trees(classifier))
            found += _splits(columns, known, feature, typical)
        else:
            found += _standardised_splits(columns, classifier, feature)
    return np.unique(np.concatenate(found))


def _splits(
    columns: Any, known: Mapping[int, NDArray[np.float64]], feature: Feature, typical: float
) -> list[NDArray[np.float64]]:
    """Built-in trees see the number itself, and its phase in each cycle of a calendar."""
    numbers, _ = columns_of(columns, "numbers")
    dated, cycles = columns_of(columns, "cycles")
    if feature.name not in numbers:
        return []
    splits = [known.get(numbers.index(feature.name), np.empty(0))]
    if feature.name in dated:
        of_all = cycles.kw_args["cycles"]  # only trees that are built in come here
        place = dated.index(feature.name)
        first = len(numbers) + sum(len(of_one) for of_one in of_all[:place])
        for position, cycle in enumerate(calendar.CYCLES[feature.type]):
            phases = known.get(first + position, np.empty(0))
            # The cycle around 1970, and the one that the times themselves lie in.
            turns = np.floor((typical + cycle.offset) / cycle.period)
            splits += [
                start * cycle.period + phases - cycle.offset for start in (0.0, float(turns))
            ]
    return splits


def _standardised_splits(
    columns: Any, classifier: Any, feature: Feature
) -> list[NDArray[np.float64]]:
    """Others see the standardised number: null turns into the median, trees split as they do."""
    numbers, standardise = columns_of(columns, "numbers")
    if feature.name not in numbers:
        return []
    place = numbers.index(feature.name)
    impute, scale = standardise.named_steps["impute"], standardise.named_steps["scale"]
    found = [impute.statistics_[place : place + 1]]
    trees = trees_of(classifier)
    if trees:
        splits = _some(thresholds(trees).get(place, np.empty(0)))
        around = [splits]
        if compares_floats(classifier):
            # What is compared is a float: it changes in the middle between two of them.
            near = splits.astype(np.float32)
            for side in (-np.inf, np.inf):
                next_to = np.nextafter(near, np.float32(side))
                around.append((near.astype(np.float64) + next_to.astype(np.float64)) / 2)
        found += [values * scale.scale_[place] + scale.mean_[place] for values in around]
    return found


def _some(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= MOST_SPLITS_TO_PROBE:
        return values
    places = np.linspace(0, len(values) - 1, MOST_SPLITS_TO_PROBE).round().astype(np.intp)
    return values[places]


def _number_probes(jumps: NDArray[np.float64]) -> list[float]:
    largest = np.finfo(np.float64).max
    beside = [jumps, np.nextafter(jumps, -np.inf), np.nextafter(jumps, np.inf)]
    extremes = [np.nan, 0.0, -0.0, 5e-324, largest, -largest]
    return [*np.concatenate(beside).tolist(), *extremes]


def _text_probes(model: FittedModel, feature: Feature) -> list[str]:
    """Every text that the model tells apart, and some that it does not."""
    found: list[str] = []
    for _, pipeline in pipelines(model):
        columns = pipeline.named_steps["columns"]
        texts, one_hot = columns_of(columns, "texts")
        many, share_of_ones = columns_of(columns, "many")
        known = one_hot.categories_[texts.index(feature.name)]
        rare = one_hot.infrequent_categories_[texts.index(feature.name)]
        found += known[~np.isin(known, [] if rare is None else rare)].tolist()
        found += known[:MOST_TEXTS_TO_PROBE].tolist()
        if feature.name in many:
            encode = share_of_ones.named_steps["encode"]
            found += encode.categories_[many.index(feature.name)].tolist()
    return [*dict.fromkeys(found), NULL_TEXT, _UNSEEN_TEXT, "", "\ufffd \U0001f33e"]


def _length(inputs: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(inputs.values())))
