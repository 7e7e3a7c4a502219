"""How often the verdict is wrong, on projects whose truth is known because it was planted.

`python -m benchmarks verdict` takes everything; `python -m benchmarks.verdict --projects 40` less.
Every model is fitted and judged by the functions that `gristmill train` calls; only the record of
attempts is kept in memory instead of in a warehouse.
"""

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from gristmill.errors import TrainingError
from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.project.model import BUILT_IN_CANDIDATES, Metric, Model
from gristmill.training.attempts import Asked
from gristmill.training.evaluate import evaluate
from gristmill.training.fit import fit
from gristmill.training.gate import Rival, judge
from gristmill.training.improvement import Scored
from gristmill.training.leak import find_leaks
from gristmill.training.spending import Attempt, allowance, generation_of
from gristmill.training.split import split

PROJECTS, RETRAININGS = 400, 12
PAIRS = 200
AREAS = (0.52, 0.55, 0.6, 0.65, 0.7, 0.8)
SIZES = (500, 1000, 2000, 5000, 10_000)
REPEATS = 40
LOGISTIC, BOOSTING = ("logistic",), ("gradient_boosting",)
GATE_METRICS: tuple[Metric, ...] = ("roc_auc", "log_loss")
MOST_ROWS = 20_000


class Record:
    """What `training.attempts` keeps in the warehouse: every attempt, and how each began."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.began_with: list[str] = []

    def allowance(self, asked: Asked):
        last = self.attempts[-1].generation if self.attempts else 0
        generation = generation_of(asked.entities, last=last, began_with=self.began_with)
        allowed = allowance(
            self.attempts,
            generation=generation,
            answers=asked.digest,
            champion=asked.champion,
            chance_spent=asked.chance_spent,
        )
        if generation != last:
            self.began_with = list(asked.entities)
        self.attempts.append(
            Attempt(
                generation=generation,
                answers=asked.digest,
                champion=asked.champion,
                chance_spent=asked.chance_spent,
            )
        )
        return allowed


class Project:
    """Clients with features, and labels that follow some of them, or none: always the same ones."""

    def __init__(
        self, seed: int, *, base_rate: float, area: float = 0.5, also: float = 0.5
    ) -> None:
        """`known` alone allows an area under the ROC curve of `area`, `more` one of `also`."""
        self.random = np.random.default_rng(seed)
        self.name = f"project {seed}"
        self.labels = (self.random.random(MOST_ROWS) < base_rate).astype(np.int64)
        self.columns = {
            "known": self._number(area),
            "more": self._number(also),
            "noise": self._number(0.5),
            "other": np.round(self._number(0.5), 1),
            "text": self.random.choice(list("abcdefgh"), MOST_ROWS),
        }

    def _number(self, area: float):
        """Normal, higher by so much where the label is 1 that it orders that share of pairs."""
        return self.random.normal(size=MOST_ROWS) + np.sqrt(2) * norm.ppf(area) * self.labels

    def training_set(self, rows: int, names: tuple[str, ...]) -> TrainingSet:
        columns = {name: pa.array(self.columns[name][:rows]) for name in names}
        table = pa.table({"id": np.arange(rows), **columns, "label": self.labels[:rows]})
        kinds = {name: "text" if name == "text" else "number" for name in names}
        features = tuple(Feature(name=name, type=kind) for name, kind in kinds.items())
        return TrainingSet(entity="id", features=features, label="label", table=table, build=1)


class Trained:
    """A model that was fitted on a project, and what it says of the holdout."""

    def __init__(self, project: Project, rows: int, names: tuple[str, ...], model: Model) -> None:
        known = project.training_set(rows, names)
        self.metric = model.metric
        self.parts = split(known, salt=project.name, share=model.holdout)
        self.fitted = fit(self.parts.training, known.features, model)
        self.leaks = find_leaks(self.parts.training, known.features)
        self.labels = self.parts.holdout.labels
        self.scores = self.fitted.probabilities(self.parts.holdout.inputs)

    def judged(self, record: Record, champion: "Trained | None" = None):
        entities = [str(one) for one in self.parts.holdout.table.column("id").to_pylist()]
        asked = Asked(
            entities=entities,
            labels=self.labels,
            scores=self.scores,
            champion="1" if champion else None,
            chance_spent=champion is None,
        )
        rival = champion and Rival(
            version="1",
            rows=np.arange(len(self.labels)),
            scored=Scored(probabilities=champion.scores, threshold=champion.fitted.threshold),
        )
        return judge(
            evaluate(self.labels, self.scores, threshold=self.fitted.threshold),
            labels=self.labels,
            scores=self.scores,
            metric=self.metric,
            champion=rival,
            leaks=self.leaks,
            allowance=record.allowance(asked),
        )


# Noise, trained again and again


def noise_project(seed: int) -> dict:
    """Random labels of some size and imbalance; each retraining changes what people change."""
    random = np.random.default_rng([seed, 1])
    project = Project(seed, base_rate=float(random.choice([0.5, 0.3, 0.1, 0.05])))
    rows = int(random.integers(400, 2500))
    model = Model(candidates=_candidates(seed))
    names = ["known", "more", "noise", "other", "text"]
    growth = float(random.choice([0.0, 0.03, 0.15]))
    record, verdicts, naive = Record(), [], False
    for number in range(RETRAININGS):
        chosen = tuple(names[place] for place in random.permutation(5)[: random.integers(2, 6)])
        grown = min(MOST_ROWS, int(rows * (1 + growth) ** number))
        try:
            trained = Trained(project, grown, chosen, replace(model, seed=number))
        except TrainingError:  # too few of a label: the command ends so, and promotes nothing
            continue
        verdict = trained.judged(record)
        verdicts.append(verdict.decision)
        naive = naive or verdict.p_value <= 0.05
    return {"promoted": "promote" in verdicts, "naive": naive, "verdicts": Counter(verdicts)}


def _candidates(seed: int) -> tuple[str, ...]:
    """Every other project is of logistic regression alone, one in 16 of boosting alone.

    The others, 7 of 16, have the three candidates that a project has by default.
    """
    if seed % 2:
        return LOGISTIC
    return BUILT_IN_CANDIDATES if seed % 16 else BOOSTING


def false_promotions(pool, projects: int) -> dict:
    started = time.monotonic()
    found = list(pool.map(noise_project, range(projects)))
    verdicts = sum((one["verdicts"] for one in found), Counter())
    promoted = sum(one["promoted"] for one in found)
    return {
        "what": f"{projects} projects of noise, {RETRAININGS} trainings each: ever promoted",
        "n": projects,
        "promote %": 100 * promoted / projects,
        "refuse %": 100 * verdicts["refuse"] / verdicts.total(),
        "cannot tell %": 100 * verdicts["cannot tell"] / verdicts.total(),
        "without spending, at 5%": 100 * sum(one["naive"] for one in found) / projects,
        "seconds": time.monotonic() - started,
    }


# Planted signals


def signal_project(seed: int, *, area: float, rows: int, worn: int) -> str:
    """The decision on a planted signal, after the holdout was asked `worn` times in vain."""
    project = Project(1000 + seed, base_rate=0.3, area=area)
    record = Record()
    trained = Trained(project, rows, ("known", "noise", "text"), Model(candidates=LOGISTIC))
    nothing = Asked(
        entities=[str(one) for one in trained.parts.holdout.table.column("id").to_pylist()],
        labels=trained.labels,
        scores=trained.scores,
        champion=None,
        chance_spent=True,
    )
    for number in range(worn):
        record.allowance(replace(nothing, scores=trained.scores + number + 1))
    return trained.judged(record).decision


def power(pool, repeats: int) -> Iterator[dict]:
    cells = [(area, rows, 0) for area in AREAS for rows in SIZES]
    cells += [(area, rows, 11) for area in (0.6, 0.65) for rows in (5000, 10_000)]
    for area, rows, worn in cells:
        yield _power(pool, repeats, area=area, rows=rows, worn=worn)


def _power(pool, repeats: int, *, area: float, rows: int, worn: int) -> dict:
    started = time.monotonic()
    decide = partial(signal_project, area=area, rows=rows, worn=worn)
    found = Counter(pool.map(decide, range(repeats)))
    attempt = f", attempt {worn + 1}" if worn else ""
    return {
        "what": f"planted area {area:g}, {rows:,} labels{attempt}",
        "n": repeats,
        "promote %": 100 * found["promote"] / repeats,
        "refuse %": 100 * found["refuse"] / repeats,
        "cannot tell %": 100 * found["cannot tell"] / repeats,
        "without spending, at 5%": "",
        "seconds": time.monotonic() - started,
    }


# Planted champions


def pair(
    seed: int,
    *,
    champion: tuple[str, ...],
    candidate: tuple[str, ...],
    metric: Metric = "roc_auc",
) -> str:
    """The decision on a candidate that knows other features than the champion."""
    project = Project(5000 + seed, base_rate=0.3, area=0.7, also=0.65)
    model = Model(candidates=LOGISTIC, metric=metric)
    reigning = Trained(project, 5000, champion, model)
    return Trained(project, 5000, candidate, model).judged(Record(), reigning).decision


GATES = {
    "worse": (("known", "more"), ("known", "noise")),
    "equal": (("known", "other"), ("known", "noise")),
    "better": (("known", "noise"), ("known", "more")),
}


def gate(pool, pairs: int, which: str, metric: Metric) -> dict:
    started = time.monotonic()
    champion, candidate = GATES[which]
    decide = partial(pair, champion=champion, candidate=candidate, metric=metric)
    found = Counter(pool.map(decide, range(pairs)))
    than = "as good as" if which == "equal" else f"{which} than"
    return {
        "what": f"candidate {than} the champion, by {metric}",
        "n": pairs,
        "promote %": 100 * found["promote"] / pairs,
        "refuse %": 100 * found["refuse"] / pairs,
        "cannot tell %": 100 * found["cannot tell"] / pairs,
        "without spending, at 5%": "",
        "seconds": time.monotonic() - started,
    }


def measured(projects: int, repeats: int, pairs: int) -> Iterator[dict]:
    with ProcessPoolExecutor(os.cpu_count(), initializer=_one_thread) as pool:
        yield false_promotions(pool, projects)
        yield from power(pool, repeats)
        for metric in GATE_METRICS:
            for which in GATES:
                yield gate(pool, pairs, which, metric)


def _one_thread() -> None:
    """A process for each core, and one thread in each: the fits are small."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def run(_folder, _home, _rows, _rounds) -> dict:
    return {
        "what": "planted truth: how often each verdict is given",
        "rows": list(measured(PROJECTS, REPEATS, PAIRS)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict", description=__doc__)
    parser.add_argument("--projects", type=int, default=PROJECTS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    chosen = parser.parse_args()
    for row in measured(chosen.projects, chosen.repeats, chosen.pairs):
        print(", ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
