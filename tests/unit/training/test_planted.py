"""Planted truth, a few projects of it, by the functions that train and judge.

`python -m benchmarks verdict` counts over 400 projects; here are the first of them.
"""

import runpy
from collections import Counter
from pathlib import Path

import pytest

planted = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "verdict.py"))


def test_projects_of_noise_trained_twelve_times_are_never_promoted():
    found = [planted["noise_project"](seed) for seed in range(1, 6)]

    verdicts = sum((one["verdicts"] for one in found), Counter())
    assert verdicts.total() >= 50
    assert verdicts["promote"] == 0
    assert any(one["naive"] for one in found)  # without spending some would have been


@pytest.mark.parametrize("worn", [0, 11])
def test_a_planted_signal_is_not_refused_from_5000_labels_on(worn):
    found = Counter(
        planted["signal_project"](seed, area=0.6, rows=5000, worn=worn) for seed in range(8)
    )
    assert found["refuse"] == 0
    assert found["promote"] >= (7 if worn == 0 else 5)


@pytest.mark.parametrize("metric", planted["GATE_METRICS"])
@pytest.mark.parametrize(
    ("which", "least", "most"), [("worse", 0, 0), ("equal", 0, 1), ("better", 7, 8)]
)
def test_a_planted_champion_yields_to_a_better_one_alone(metric, which, least, most):
    champion, candidate = planted["GATES"][which]
    found = Counter(
        planted["pair"](seed, champion=champion, candidate=candidate, metric=metric)
        for seed in range(8)
    )
    assert least <= found["promote"] <= most
