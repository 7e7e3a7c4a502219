from itertools import islice

import pytest

from gristmill.project.model import Model
from gristmill.training.tune import Budget, proposals

BOTH = ("logistic", "gradient_boosting")


def some(count, candidates=BOTH, seed=0):
    return list(islice(proposals(candidates, rows=1000, seed=seed), count))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_defaults_come_first_then_a_sequence_that_follows_from_the_seed():
    first = some(30)

    assert [each.candidate for each in first[:2]] == ["logistic", "gradient_boosting"]
    assert first[0].configuration == {}
    assert first == some(30)
    assert first[2:] != some(30, seed=1)[2:]
    assert first[:12] == some(12)
    assert 3 <= [each.candidate for each in first[2:]].count("logistic") <= 6
    drawn = [str(each.configuration) for each in first[2:]]
    assert len(set(drawn)) == len(drawn)


def test_one_candidate_is_tuned_alone_and_a_projects_own_not_at_all():
    own = "package.module:make"

    assert {each.candidate for each in some(10, ("logistic",))} == {"logistic"}
    assert [each.candidate for each in some(10, (own,))] == [own]
    assert [each.candidate for each in some(10, (own, "logistic"))[2:]] == ["logistic"] * 8


def test_what_is_drawn_can_be_fitted():
    for _, configuration in some(300, ("gradient_boosting",)):
        assert 0.02 <= configuration["learning_rate"] <= 0.2
        assert 3 <= configuration["max_leaf_nodes"] <= 64
        assert 3 <= configuration["min_samples_leaf"] <= 100
        assert 0.0 < configuration["l2_regularization"] <= 30
        assert 0.2 <= configuration["max_features"] <= 1.0


@pytest.mark.parametrize(("trials", "done"), [(None, 2), (1, 2), (2, 2), (5, 5)])
def test_defaults_are_always_tried_and_then_as_many_as_asked(trials, done):
    budget = Budget(Model(trials=trials), defaults=2, clock=Clock())

    while budget.allows():
        budget.count()

    assert budget.done == done


@pytest.mark.parametrize(("minutes", "done"), [(0.1, 2), (1.0, 6), (1.01, 6), (1.2, 7)])
def test_no_trial_is_begun_that_would_not_end_in_time(minutes, done):
    clock = Clock()
    budget = Budget(Model(minutes=minutes), defaults=2, clock=clock)

    while budget.allows():
        clock.now += 10.0
        budget.count()

    assert budget.done == done


def test_what_is_done_once_takes_of_the_time_and_is_not_taken_for_the_length_of_a_trial():
    clock = Clock()
    budget = Budget(Model(minutes=1.0), defaults=1, clock=clock)
    clock.now += 35.0
    budget.prepared()

    while budget.allows():
        clock.now += 5.0
        budget.count()

    assert budget.done == 5


def test_whichever_comes_first_ends_the_search():
    clock = Clock()
    budget = Budget(Model(minutes=1.0, trials=4), defaults=1, clock=clock)

    while budget.allows():
        clock.now += 10.0
        budget.count()

    assert budget.done == 4
