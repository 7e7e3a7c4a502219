"""The verdict over a project's life: attempts, champions of other holdouts and features, replay."""

import hashlib
import json
from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest

from gristmill.flow import steps
from gristmill.flow.report import Silence
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.predictions.predictor import load_predictor
from gristmill.predictions.replay import replay
from gristmill.predictions.ship import record
from gristmill.registry.bundle import read_bundle
from gristmill.registry.store import Registry
from gristmill.training.spending import CHANCE_ALPHA, spend
from gristmill.training.split import entity_fractions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CLIENTS = 3000
MOST_CLIENTS = 10_000
PROJECT = """
[tables.clients]
path = "clients.csv"
key  = ["id"]
[tables.clients.columns]
id    = "integer"
known = "number"
more  = "number"
noise = "number"
late  = "integer?"

[tables.labels]
path = "labels.csv"
key  = ["id"]
[tables.labels.columns]
id    = "integer"
label = { type = "integer", in = [0, 1] }
other = { type = "integer", in = [0, 1] }
day   = "date"

[features]
table    = "feature_store"
entity   = "clients.id"
"""


class Judged:
    """A shop whose labels follow `known` and, half as much, `more`; each training is one call."""

    def __init__(self, shop) -> None:
        self.shop = shop

    def put(self, clients=CLIENTS, *, strength=1.0):
        """Clients and labels: always the same ones, and those that are more come after them."""
        random = np.random.default_rng(1)
        known, more, noise = random.normal(size=(3, MOST_CLIENTS))
        likely = 1 / (1 + np.exp(0.5 - strength * (known + 0.5 * more)))
        label = (random.random(MOST_CLIENTS) < likely).astype(int)
        days = np.datetime64("2025-01-01") + random.integers(0, 300, MOST_CLIENTS)
        rows = list(zip(range(clients), known, more, noise, label, days, strict=False))
        self.shop.put(
            "clients.csv",
            "id,known,more,noise,late\n"
            + "".join(f"{i},{k},{m},{n},{'' if y else i % 7}\n" for i, k, m, n, y, _ in rows),
        )
        self.shop.put(
            "labels.csv",
            "id,label,other,day\n" + "".join(f"{i},{y},{1 - y},{d}\n" for i, *_, y, d in rows),
        )

    def train(self, *features, holdout=0.2, name="shop", label="label", gate="", as_of=False):
        """Declare, load, build and train; the version."""
        named = ", ".join(f'"clients.{feature}"' for feature in features)
        lines = [f"features = [{named}]", f'label = "labels.{label}"']
        lines += ['as_of = "labels.day"'] if as_of else []
        lines += ["[model]", 'candidates = ["logistic"]', f"holdout = {holdout}"]
        lines += ["[model.gate]", f'no_signal = "{gate}"'] if gate else []
        self.shop.declare(PROJECT + "\n".join(lines))
        file = self.shop.folder / "gristmill.toml"
        file.write_text(file.read_text().replace('name = "shop"', f'name = "{name}"'))
        self.shop.load()
        self.shop.build()
        return steps.train(self.shop.context, Silence())

    @property
    def evidence(self) -> dict:
        """What is on record of the last attempt."""
        ((evidence,),) = self.shop.rows(
            "SELECT evidence FROM gristmill.attempts ORDER BY attempt DESC LIMIT 1"
        )
        return evidence

    @property
    def champion(self):
        champion = self.shop.context.registry.champion()
        return champion.version if champion else None


@pytest.fixture
def judged(shop):
    made = Judged(shop)
    made.put()
    return made


def test_a_better_version_succeeds_and_one_that_is_not_does_not(judged):
    first = judged.train("known", "noise")
    assert first.verdict == "promote"
    assert first.reasons[-1] == "There is no champion to compare with."
    assert judged.evidence["champion"] is None
    declared = (judged.shop.folder / "gristmill.toml").read_bytes()
    assert first.lineage["project"]["files"] == {
        "gristmill.toml": hashlib.sha256(declared).hexdigest()
    }

    better = judged.train("known", "noise", "more")
    assert better.verdict == "promote", better.reasons
    assert judged.champion == "2"
    compared = judged.evidence["champion"]
    assert (compared["version"], compared["lost"]) == ("1", [])
    assert compared["pairs"] == judged.evidence["signal"]["rows"]
    assert compared["low"] > 0

    again = judged.train("known", "noise", "more")
    assert again.verdict == "refuse"
    assert "exactly as the champion, version 2" in again.reasons[-1]
    allowed = judged.evidence["champion"]["allowed"]
    assert judged.train("known", "noise", "more").reasons == again.reasons
    assert judged.evidence["champion"]["allowed"] == allowed
    assert judged.champion == "2"


def test_a_champion_that_came_meanwhile_does_not_yield_to_a_verdict_on_another(judged, monkeypatch):
    assert judged.train("noise").verdict != "promote"
    registry, train_version = judged.shop.context.registry, steps.train_version

    def overtaken(context, report):
        version = train_version(context, report)
        registry.promote("1", by="ana", why="meanwhile", force=True)
        return version

    monkeypatch.setattr(steps, "train_version", overtaken)
    better = judged.train("known", "more")

    assert (better.version, better.verdict, judged.champion) == ("2", "promote", "1")
    assert [one.by for one in registry.promotions()] == ["ana"]


def test_a_verdict_that_was_not_carried_out_is_carried_out_by_the_next_run(judged, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "promote_as_judged", killed)
        with pytest.raises(KeyboardInterrupt):
            judged.train("known")
    assert judged.champion is None

    context = judged.shop.context
    for _ in range(2):
        steps.run(context, Silence())

    assert [one.version for one in context.registry.versions()] == ["1"]
    assert [(one.version, one.by) for one in context.registry.promotions()] == [("1", "gate")]


def test_every_attempt_on_noise_wears_the_holdout_until_new_entities_renew_it(judged):
    judged.put(strength=0.0)
    for number, features in enumerate((["known"], ["known", "more"], ["noise"]), start=1):
        assert judged.train(*features).verdict != "promote"
        allowed = judged.evidence["signal"]["allowed"]
        assert allowed == spend(CHANCE_ALPHA, renewal=1, attempt=number)
    judged.train("known")  # asked before: no new attempt
    assert judged.evidence["signal"]["allowed"] == spend(CHANCE_ALPHA, renewal=1, attempt=1)
    assert judged.shop.rows("SELECT count(*), max(generation) FROM gristmill.attempts") == [(4, 1)]

    judged.put(2 * CLIENTS + 500, strength=0.0)
    assert judged.train("known").verdict != "promote"
    assert judged.evidence["signal"]["allowed"] == spend(CHANCE_ALPHA, renewal=2, attempt=1)
    assert judged.champion is None
    for forgetting in (
        "DELETE FROM gristmill.attempts",
        "UPDATE gristmill.attempts SET generation = 9",
        "TRUNCATE gristmill.attempts CASCADE",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            judged.shop.rows(forgetting)


def test_only_who_was_held_out_of_both_is_compared(judged):
    """A greater share and another name hold out entities that the champion was trained on."""
    judged.train("known", "noise")
    renamed = judged.train("known", "more", holdout=0.4, name="renamed")

    ids = [str(number) for number in range(CLIENTS)]
    ours = entity_fractions(ids, salt="renamed") < 0.4
    both = ours & (entity_fractions(ids, salt="shop") < 0.2)
    assert judged.evidence["signal"]["rows"] == ours.sum()
    assert judged.evidence["champion"]["pairs"] == both.sum() < 0.3 * ours.sum()
    assert renamed.lineage["holdout"] == {
        "salt": "renamed",
        "share": 0.4,
        "entity": "id",
        "label": "label",
    }

    other = judged.train("known", label="other", holdout=0.4, name="renamed")
    assert other.verdict == "cannot tell"
    assert "predicts label, not other" in other.reasons[-1]


def test_what_a_champion_said_stands_for_it_where_it_cannot_be_asked(judged):
    judged.train("known", "noise")

    successor = judged.train("known")
    assert successor.verdict == "promote", successor.reasons
    assert judged.evidence["champion"]["lost"] == ["noise"]
    assert judged.evidence["champion"]["pairs"] == judged.evidence["signal"]["rows"]
    assert "no worse" in successor.reasons[-1]

    worse = judged.train("more")
    assert worse.verdict == "refuse"
    assert "worse than the champion" in worse.reasons[-1]

    (successor.bundle / "model.onnx").write_bytes(b"")
    better = judged.train("known", "more")
    assert better.verdict == "promote"
    assert "its bundle is missing or damaged" in better.reasons[-1]
    assert judged.evidence["champion"]["lost"] == []
    assert judged.evidence["champion"]["bundle_lost"]
    assert judged.evidence["champion"]["pairs"] == judged.evidence["signal"]["rows"]


def test_noise_may_be_served_and_yields_to_signal_only(judged):
    judged.put(strength=0.0)
    first = judged.train("known", gate="serve")
    assert (first.verdict, first.no_signal) == ("promote", True)
    assert judged.train("more", gate="serve").verdict != "promote"

    judged.put(strength=1.5)
    signal = judged.train("known", "more", gate="serve")
    assert (signal.verdict, signal.no_signal) == ("promote", False)


def test_a_leak_is_named_and_who_promotes_it_all_the_same_has_accepted_it(judged):
    leaking = judged.train("known", "late")
    assert leaking.verdict == "refuse"
    assert "Already whether late is null decides the label" in leaking.reasons[-1]
    assert judged.evidence["leaks"][0]["feature"] == "late"

    steps.promote(judged.shop.context, "1", by="ana", why="it is known before", force=True)
    accepted = " ".join(judged.train("known", "more", "late").reasons)
    assert "So it does in the champion's verdict" in accepted
    assert "leave it out" not in accepted


def log_predictions(judged, predictor):
    """Predictions as the API logs them, of 50 entities, some with awkward numbers."""
    random = np.random.default_rng(8)
    rows = [
        {"known": float(known), "more": None if number % 9 == 0 else float(more)}
        for number, (known, more) in enumerate(random.normal(size=(200, 2)))
    ]
    rows += [{"known": 3, "more": -0.0}, {"known": 1e22, "more": 5e-324}, {"known": 0.1, "more": 7}]
    answers = predictor.answers(rows)
    record(
        judged.shop.warehouse,
        [
            Prediction(
                prediction_id=new_prediction_id(),
                entity=str(number % 50),
                features=row,
                probability=answer.probability,
                label=answer.label,
                model_version="1",
                predicted_at=datetime.now(UTC),
                latency_ms=1.0,
            )
            for number, (row, answer) in enumerate(zip(rows, answers, strict=True))
        ],
    )
    return rows, answers


def test_what_is_told_beside_the_reasons(judged):
    """Out of time; the version's own log, to the last bit; another's flips; what a log lacks."""
    first = judged.train("known", "more", as_of=True)
    told = judged.evidence["out_of_time"]
    ((rows,),) = judged.shop.rows(
        "SELECT count(*) FROM public.training_set WHERE as_of >= %s::timestamptz", told["since"]
    )
    assert rows == pytest.approx(CLIENTS / 5, rel=0.1)
    assert told["rows"] == pytest.approx(rows / 5, rel=0.3)
    assert told["roc_auc"]["low"] > 0.6
    assert "Out of time" in first.reasons[-2]
    assert judged.evidence.get("replay") is None

    predictor = load_predictor(read_bundle(first.bundle))
    logged, answers = log_predictions(judged, predictor)
    own = replay(predictor, judged.shop.warehouse)
    assert (own.replayed, own.not_replayed) == (len(logged), 0)
    assert (own.to_one, own.to_zero, own.entities, own.largest_change) == (0, 0, (), 0.0)

    second = judged.train("known", as_of=True)
    told = judged.evidence["replay"]
    now = load_predictor(read_bundle(second.bundle)).answers(
        [{"known": row["known"]} for row in logged]
    )
    flips = [
        str(number % 50)
        for number, (old, new) in enumerate(zip(answers, now, strict=True))
        if old.label != new.label
    ]
    assert told["to_one"] + told["to_zero"] == len(flips) > 0
    assert told["flipped"] == len(set(flips))
    assert all(flips.count(entity) == count for entity, count in told["entities"])
    assert any(f"{len(flips)} otherwise" in reason for reason in second.reasons)
    manifest = json.loads((second.bundle / "manifest.json").read_text())
    assert "entities" not in manifest["verdict"]["evidence"]["replay"]

    judged.train("known", "noise", as_of=True)
    told = judged.evidence["replay"]
    assert (told["replayed"], told["not_replayed"]) == (0, len(logged))
    assert told["missing"] == ["noise"]
