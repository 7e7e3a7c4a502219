from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.evaluate import evaluate
from gristmill.training.gate import judge
from gristmill.training.spending import (
    CHAMPION_ALPHA,
    CHANCE_ALPHA,
    Attempt,
    allowance,
    generation_of,
    spend,
)


def test_all_attempts_for_ever_spend_no_more_than_was_promised():
    numbers = range(1, 1001)
    spent = sum(
        spend(0.01, renewal=renewal, attempt=attempt) for renewal in numbers for attempt in numbers
    )

    # 6/π² · (the first thousand of Σ 1/k²) is 0.99939, squared.
    assert spent == pytest.approx(0.01 * 0.99939**2, rel=1e-4)


def test_what_the_documentation_says_of_single_attempts():
    page = (Path(__file__).parents[3] / "docs" / "verdict.md").read_text(encoding="utf-8")
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in page.splitlines()
        if line.startswith(("| attempt ", "| allowed of", "| standard deviations"))
    }
    for attempt, allowed, deviations in zip(*cells.values(), strict=True):
        spent = spend(0.01, renewal=1, attempt=int(attempt))
        assert float(allowed) == pytest.approx(spent, rel=0.02)
        assert float(deviations) == pytest.approx(-NormalDist().inv_cdf(spent), abs=0.06)


def attempts(*answers, champion=None, generation=1, chance_spent=True):
    return [
        Attempt(generation=generation, answers=answer, champion=champion, chance_spent=chance_spent)
        for answer in answers
    ]


def next_allowed(history, *, answers="new", champion=None, generation=1, chance_spent=True):
    return allowance(
        history,
        generation=generation,
        answers=answers,
        champion=champion,
        chance_spent=chance_spent,
    )


def test_each_attempt_has_less_whatever_came_of_it():
    first = next_allowed([])
    third = next_allowed(attempts("a", "b"))

    assert first.chance == spend(CHANCE_ALPHA, renewal=1, attempt=1)
    assert third.chance == pytest.approx(first.chance / 9)
    assert (first.attempt, third.attempt) == (1, 3)


def test_what_was_asked_before_is_not_asked_anew():
    history = attempts("a", "b", "c")
    assert next_allowed(history, answers="b").attempt == 2
    assert next_allowed([*history, *attempts("b", "b")]).attempt == 4


def test_a_renewed_holdout_begins_anew_with_a_smaller_share():
    history = attempts(*"abcdefghij")
    worn, renewed = next_allowed(history), next_allowed(history, generation=2)

    assert worn.chance == spend(CHANCE_ALPHA, renewal=1, attempt=11)
    assert renewed.chance == spend(CHANCE_ALPHA, renewal=2, attempt=1) > worn.chance


def test_a_champion_with_signal_has_a_purse_of_its_own():
    history = [
        *attempts("a", "b"),
        *attempts("c", "d", champion="1", chance_spent=False),
        *attempts("e", champion="2", chance_spent=False),
    ]
    found = next_allowed(history, champion="2", chance_spent=False)

    assert found.chance == CHANCE_ALPHA
    assert found.champion == spend(CHAMPION_ALPHA, renewal=1, attempt=2)
    back = next_allowed(history, champion="1", chance_spent=False)
    assert back.champion == spend(CHAMPION_ALPHA, renewal=1, attempt=3)


def test_beside_a_champion_without_signal_both_are_spent():
    history = [*attempts("a"), *attempts("b", champion="1")]
    found = next_allowed(history, champion="1")

    assert found.chance == spend(CHANCE_ALPHA, renewal=1, attempt=3)
    assert found.champion == spend(CHAMPION_ALPHA, renewal=1, attempt=2)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.sampled_from("abcdef"), st.sampled_from([None, "1", "2"])),
        max_size=40,
    )
)
def test_in_any_history_no_purse_is_overdrawn(rows):
    """Whoever is asked: what distinct questions were allowed adds up to no more than promised."""
    rows.sort(key=lambda row: row[0])
    history, chance, against = [], {}, {}
    for generation, answers, champion in rows:
        spent = champion != "2"
        found = next_allowed(
            history,
            answers=answers,
            champion=champion,
            generation=generation,
            chance_spent=spent,
        )
        if spent:
            chance.setdefault(answers, found.chance)
        if champion:
            against.setdefault((champion, answers), found.champion)
        history += attempts(answers, champion=champion, generation=generation, chance_spent=spent)

    assert sum(chance.values()) <= CHANCE_ALPHA
    for champion in ("1", "2"):
        total = sum(allowed for (one, _), allowed in against.items() if one == champion)
        assert total <= CHAMPION_ALPHA


def test_half_new_entities_are_a_new_generation():
    assert generation_of("abcd", last=0, began_with="abcd") == 1
    assert generation_of("abcdefg", last=1, began_with="abcd") == 1
    assert generation_of("abcdefgh", last=1, began_with="abcd") == 2
    assert generation_of("ab", last=3, began_with="abcd") == 3


def test_noise_asked_again_and_again_is_promoted_as_rarely_as_promised():
    """Projects of noise, each judged 12 times by scores that share a part, as retrainings do."""
    random = np.random.default_rng(11)
    promoted = naively = 0
    for _ in range(400):
        labels = (random.random(400) < 0.3).astype(np.int64)
        shared = random.normal(size=400)
        history, passed = [], []
        for number in range(12):
            noise = 0.6 * shared + 0.8 * random.normal(size=400)
            scores = 1 / (1 + np.exp(-noise))
            allowed = next_allowed(history, answers=str(number))
            history += attempts(str(number))
            found = judge(
                evaluate(labels, scores, threshold=0.5),
                labels=labels,
                scores=scores,
                allowance=allowed,
            )
            passed.append((found.decision == "promote", found.p_value <= CHANCE_ALPHA))
        promoted += any(ours for ours, _ in passed)
        naively += any(theirs for _, theirs in passed)

    assert promoted <= 8  # 2% of 400
    assert naively > 20  # without spending, more than 5%
