"""Whether the graph that ships answers as scikit-learn does: a million rows, and every split.

`python -m benchmarks parity` takes a million rows; `python -m benchmarks.parity --rows 50000` less.
"""

import argparse
import time

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit

from gristmill.features.encode import NULL_TEXT, encode_table
from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.project.model import Model
from gristmill.settings import share_processors
from gristmill.training.export import write_graph
from gristmill.training.fit import FittedModel, fit
from gristmill.training.proof import make_probes, open_session
from gristmill.training.proof import run as run_graph
from gristmill.training.split import split

TRAINING_ROWS = 100_000
CANDIDATES = (
    "logistic",
    "gradient_boosting",
    "blend",
    "benchmarks.parity:make_forest",
)
FEATURES = (
    Feature(name="money", type="number"),
    Feature(name="epoch", type="integer"),
    Feature(name="moment", type="timestamp"),
    Feature(name="since", type="date"),
    Feature(name="shop", type="text"),
    Feature(name="kind", type="text"),
)
BATCHES = (1, 2, 3, 5, 64, 1000)


def make_forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(50, min_samples_leaf=20)


def run(_folder, _home, rows: int, _rounds: int) -> dict:
    return measure(rows=min(rows, 1_000_000))


def measure(*, rows: int) -> dict:
    """A row per candidate: its answers on all rows and probes, and alone against in batches."""
    share_processors()
    parts = split(made(min(rows, TRAINING_ROWS), seed=0), salt="parity", share=0.2)
    asked = with_unseen(encode_table(made(rows, seed=1).table, FEATURES))
    found = []
    for candidate in CANDIDATES:
        model = fit(parts.training, FEATURES, Model(candidates=(candidate,)))
        found.append(compared(model, asked, parts.training.inputs))
    return {
        "what": f"the graph beside scikit-learn on {rows:,} rows, on probes at and beside each "
        "split, and alone beside in batches",
        "rows": found,
    }


def compared(model: FittedModel, asked: dict, training: dict) -> dict:
    started = time.monotonic()
    graph = write_graph(model)
    session = open_session(graph, model.candidate)
    told = {"candidate": model.candidate.rpartition(":")[2], "graph KB": len(graph) // 1024}
    for name, inputs in (("rows", asked), ("probes", make_probes(model, training))):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = model.probabilities(inputs)
        answered = run_graph(session, inputs)
        flips = (answered >= model.threshold) != (expected >= model.threshold)
        told |= {
            name: len(answered),
            f"flips, {name}": int(flips.sum()),
            f"largest difference, {name}": f"{np.abs(answered - expected).max():.1e}",
        }
        told[f"differs by batch, {name}"] = by_batch(session, inputs, answered)
    return {**told, "s": time.monotonic() - started}


def by_batch(session, inputs: dict, answered: np.ndarray) -> int:
    """How many of the first rows are answered otherwise, to the bit, in batches of other sizes."""
    differ = 0
    for size in BATCHES:
        rows = min(len(answered), 200 * size)
        for start in range(0, rows, size):
            batch = {name: values[start : start + size] for name, values in inputs.items()}
            differ += int((run_graph(session, batch) != answered[start : start + size]).sum())
    return differ


def made(rows: int, *, seed: int) -> TrainingSet:
    """Money on a grid of cents, epoch seconds, a time, a date, 2,000 shops; nulls in all."""
    random = np.random.default_rng(seed)
    money = random.integers(0, 200_000, rows) / 100
    epoch = 1_500_000_000 + random.integers(0, 2 * 10**8, rows)
    moment = 1_600_000_000_000_000 + random.integers(0, 10**14, rows)
    since = random.integers(10_000, 20_000, rows)
    shop = random.zipf(1.2, rows) % 2_000
    kind = random.integers(0, 6, rows)
    score = np.log1p(money) - 6 + (shop % 7 - 3) / 2 + ((epoch // 86_400 + 3) % 7 > 4) - kind / 5
    score += np.sin(2 * np.pi * since / 365.2425)

    def nulled(values, kind=None):
        return pa.array(values, mask=random.random(rows) < 0.03, type=kind)

    table = pa.table(
        {
            "row": np.arange(rows),
            "money": nulled(money),
            "epoch": nulled(epoch),
            "moment": nulled(moment, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "since": nulled(since.astype(np.int32)).cast(pa.date32()),
            "shop": nulled([f"shop {each}" for each in shop.tolist()], pa.string()),
            "kind": nulled([f"kind {each}" for each in kind.tolist()], pa.string()),
            "label": (random.random(rows) < expit(score)).astype(np.int64),
        }
    )
    return TrainingSet(entity="row", features=FEATURES, label="label", table=table, build=1)


def with_unseen(inputs: dict) -> dict:
    """A tenth of the shops are not those that were trained on; some are empty."""
    shops = inputs["shop"].copy()
    random = np.random.default_rng(2)
    for share, text in ((0.1, "a shop never seen"), (0.01, ""), (0.01, NULL_TEXT)):
        shops[random.random(len(shops)) < share] = text
    return {**inputs, "shop": shops}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    print(pd.DataFrame(measure(rows=parser.parse_args().rows)["rows"]).T.to_string())


if __name__ == "__main__":
    main()
