"""How good our models are beside a tuned LightGBM and FLAML that had as many minutes.

`python -m benchmarks accuracy` takes everything; `python -m benchmarks.accuracy --minutes 0.1
--splits 1 --rows 3000` less. Each public table is split at random; all learn from the same rows and
are measured on the same others. Minutes are those of one processor, of which each has one thread:
what else the machine does takes nothing from anybody.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from statistics import fmean
from unittest import mock

import numpy as np
import pandas as pd
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from benchmarks.public_data import training_sets
from gristmill.features.encode import NULL_TEXT
from gristmill.features.read import TrainingSet
from gristmill.project.model import Model
from gristmill.settings import share_processors
from gristmill.training.auc import paired_difference, roc_auc
from gristmill.training.candidates import frame
from gristmill.training.fit import fit
from gristmill.training.split import Split, split

MINUTES = 0.5
ROWS = 20_000
HELD_OUT = 0.3
SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Scored:
    """What one way answered on the held-out rows."""

    probabilities: np.ndarray
    seconds: float


def run(_folder, _home, rows: int, rounds: int) -> dict:
    return measure(minutes=MINUTES, rows=min(rows, ROWS), splits=rounds)


def measure(*, minutes: float, rows: int, splits: int) -> dict:
    """A row per table and one of the means; differences are ours with minutes minus the other's."""
    share_processors()
    threadpool_limits(1)
    warnings.simplefilter("ignore")
    ways: dict[str, Callable[[Split, TrainingSet, int], np.ndarray]] = {
        "default": lambda parts, known, seed: ours(parts, known, Model(seed=seed)),
        "ours": lambda parts, known, seed: ours(parts, known, Model(seed=seed, minutes=minutes)),
        "LightGBM": lambda parts, _, seed: lightgbm(parts, minutes, seed),
        "FLAML": lambda parts, _, seed: flaml(parts, minutes, seed),
    }
    found = []
    for name, _ in training_sets(10, seed=0):
        scored = []
        for number in range(splits):
            known = next(each for what, each in training_sets(rows, seed=number) if what == name)
            parts = split(known, salt=str(number), share=HELD_OUT)
            answers = {way: timed(ways[way], parts, known, number) for way in ways}
            scored.append((parts.holdout.labels, answers))
        found.append({"table": name, "rows": known.table.num_rows, **compared(scored)})
        print(found[-1], flush=True)
    numbers = [key for key, value in found[0].items() if isinstance(value, float)]
    mean = {key: fmean(each[key] for each in found) for key in numbers}
    blank = dict.fromkeys(found[0], "")
    return {
        "what": f"accuracy on public tables, {minutes:g} minutes each, {splits} splits",
        "rows": [*found, {**blank, "table": "mean", **mean}],
    }


def timed(way: Callable[..., np.ndarray], *given) -> Scored:
    started = time.process_time()
    return Scored(probabilities=way(*given), seconds=time.process_time() - started)


def compared(scored: list[tuple[np.ndarray, dict[str, Scored]]]) -> dict:
    """The means over the splits, and ours minus each other's with 95% intervals."""
    ways = scored[0][1]
    told: dict = {}
    for way in ways:
        told[f"AUC {way}"] = fmean(
            roc_auc(labels, answers[way].probabilities).value for labels, answers in scored
        )
    for way in ways:
        told[f"log loss {way}"] = fmean(
            float(losses(labels, answers[way].probabilities).mean()) for labels, answers in scored
        )
    for way in [each for each in ways if each != "ours"]:
        pairs = [
            (labels, answers["ours"].probabilities, answers[way].probabilities)
            for labels, answers in scored
        ]
        areas = [paired_difference(*pair) for pair in pairs]
        told[f"AUC − {way}"] = interval([(each.value, each.standard_error) for each in areas])
        told[f"log loss − {way}"] = interval([loss_difference(*pair) for pair in pairs])
    for way in ways:
        told[f"s {way}"] = fmean(answers[way].seconds for _, answers in scored)
    return told


def interval(differences: list[tuple[float, float]]) -> str:
    """The mean of the splits' differences, and how far it may be off on other rows of the table.

    Splits of one table share rows: their errors are taken as one, not as independent.
    """
    value = fmean(value for value, _ in differences)
    margin = norm.ppf(0.975) * fmean(error for _, error in differences)
    return f"{value:+.4f} ± {margin:.4f}"


def loss_difference(labels, first, second) -> tuple[float, float]:
    each = losses(labels, first) - losses(labels, second)
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    of_label = np.where(labels == 1, probabilities, 1 - probabilities)
    return -np.log(np.maximum(of_label, SMALLEST))


# The ways


def ours(parts: Split, known: TrainingSet, model: Model) -> np.ndarray:
    fitted = fit(parts.training, known.features, model, clock=time.process_time)
    return fitted.probabilities(parts.holdout.inputs)


def lightgbm(parts: Split, minutes: float, seed: int) -> np.ndarray:
    """A random search as people write it: three folds, early stopping, refit at the mean length."""
    import lightgbm
    from sklearn.model_selection import StratifiedKFold

    deadline = time.process_time() + 60 * minutes
    rows, held_out = as_categories(parts)
    labels = parts.training.labels
    folds = list(StratifiedKFold(3, shuffle=True, random_state=seed).split(rows, labels))
    random = np.random.default_rng(seed)
    best, longest = (-1.0, {}, 0), 0.0
    for trial in count():
        started = time.process_time()
        if trial and started + longest > deadline:
            break
        chosen = {} if trial == 0 else drawn(random)
        areas, lengths = [], []
        for fitting, testing in folds:
            model = lightgbm.LGBMClassifier(
                n_estimators=1000, random_state=seed, n_jobs=1, verbose=-1, **chosen
            )
            model.fit(
                rows.iloc[fitting],
                labels[fitting],
                eval_set=[(rows.iloc[testing], labels[testing])],
                eval_metric="auc",
                callbacks=[lightgbm.early_stopping(50, verbose=False)],
            )
            areas.append(model.best_score_["valid_0"]["auc"])
            lengths.append(model.best_iteration_)
        best = max(best, (fmean(areas), chosen, round(fmean(lengths))), key=lambda each: each[0])
        longest = max(longest, time.process_time() - started)
    model = lightgbm.LGBMClassifier(
        n_estimators=max(1, best[2]), random_state=seed, n_jobs=1, verbose=-1, **best[1]
    )
    return model.fit(rows, labels).predict_proba(held_out)[:, 1]


def drawn(random: np.random.Generator) -> dict:
    return {
        "learning_rate": float(10 ** random.uniform(-2, -0.5)),
        "num_leaves": int(2 ** random.uniform(2, 7)),
        "min_child_samples": int(2 ** random.uniform(1, 7)),
        "reg_lambda": float(10 ** random.uniform(-3, 1.5)),
        "reg_alpha": float(10 ** random.uniform(-3, 1)),
        "colsample_bytree": float(random.uniform(0.3, 1.0)),
        "subsample": float(random.uniform(0.5, 1.0)),
        "subsample_freq": 1,
    }


def flaml(parts: Split, minutes: float, seed: int) -> np.ndarray:
    from flaml import AutoML

    rows, held_out = as_categories(parts)
    automatic = AutoML()
    # It reads this clock, and has no setting for another.
    with mock.patch.object(time, "time", time.process_time):
        automatic.fit(
            rows,
            parts.training.labels,
            task="classification",
            metric="roc_auc",
            time_budget=60 * minutes,
            n_jobs=1,
            seed=seed,
            verbose=0,
        )
    return automatic.predict_proba(held_out)[:, 1]


def as_categories(parts: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Frames with texts as categories and nulls as such: what these libraries are made for."""
    rows, held_out = frame(parts.training.inputs), frame(parts.holdout.inputs)
    for name in rows:
        if rows[name].dtype == object:
            kind = pd.CategoricalDtype(sorted(set(rows[name]) - {NULL_TEXT}))
            rows[name], held_out[name] = rows[name].astype(kind), held_out[name].astype(kind)
    return rows, held_out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--splits", type=int, default=1)
    chosen = parser.parse_args()
    measured = measure(minutes=chosen.minutes, rows=chosen.rows, splits=chosen.splits)
    print(pd.DataFrame(measured["rows"]).to_string())


if __name__ == "__main__":
    main()
