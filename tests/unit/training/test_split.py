import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import TrainingError
from gristmill.features.encode import encode_table
from gristmill.features.read import TrainingSet
from gristmill.project.features import Feature
from gristmill.training.split import entity_fractions, split

FEATURES = (Feature(name="age", type="integer"),)


def held_out(entities, *, salt="clients", share=0.2):
    fractions = entity_fractions(entities, salt=salt)
    return {str(entity) for entity, at in zip(entities, fractions, strict=True) if at < share}


def test_the_sides_never_change():
    """Pinned: another rule would let entities that trained old versions judge new ones."""
    digest = hashlib.blake2b(b"clients:150000", digest_size=8).hexdigest()
    fraction = int(digest, 16) / 2**64

    assert fraction == 0.45327728861691396
    assert held_out([150_000], share=fraction) == set()
    assert held_out([150_000], share=np.nextafter(fraction, 1)) == {"150000"}
    assert held_out(range(100_000, 100_010)) == {"100002", "100003", "100008", "100009"}


@given(
    st.lists(st.text(min_size=1), unique=True, max_size=50),
    st.lists(st.text(min_size=1), unique=True, max_size=50),
    st.randoms(use_true_random=False),
)
def test_order_and_growth_move_nobody(entities, newcomers, random):
    grown = list(dict.fromkeys([*entities, *newcomers]))
    random.shuffle(grown)

    assert held_out(grown) & set(entities) == held_out(entities)


def test_about_the_share_is_held_out_and_a_greater_share_holds_out_more():
    entities = range(20_000)
    fifth, third = held_out(entities), held_out(entities, share=1 / 3)

    # Five standard deviations of a binomial either side.
    assert abs(len(fifth) - 4_000) < 5 * np.sqrt(20_000 * 0.2 * 0.8)
    assert fifth < third


def test_projects_hold_out_independently():
    entities = range(20_000)
    both = held_out(entities, salt="clients") & held_out(entities, salt="cdnow")

    assert abs(len(both) - 800) < 5 * np.sqrt(20_000 * 0.04 * 0.96)


def test_numbers_and_their_texts_are_the_same_entity():
    assert held_out(range(100)) == held_out([str(number) for number in range(100)])
    assert entity_fractions([], salt="clients").shape == (0,)


def training_set(labels, *, entities=None):
    entities = list(range(len(labels))) if entities is None else entities
    table = pa.table(
        {
            "idx": entities,
            "age": pa.array([None if row % 7 == 0 else row for row in range(len(labels))]),
            "label": pa.array(labels),
        }
    )
    return TrainingSet(entity="idx", features=FEATURES, label="label", table=table, build=1)


def test_the_parts_share_no_entity_and_lose_none():
    parts = split(training_set([0, 1] * 200), salt="clients", share=0.2)

    trained = set(parts.training.table.column("idx").to_pylist())
    judged = set(parts.holdout.table.column("idx").to_pylist())
    assert {str(entity) for entity in judged} == held_out(range(400))
    assert trained | judged == set(range(400))
    assert not trained & judged
    np.testing.assert_array_equal(
        parts.holdout.labels, np.array(parts.holdout.table.column("idx")) % 2
    )
    np.testing.assert_array_equal(
        parts.holdout.inputs["age"], encode_table(parts.holdout.table, FEATURES)["age"]
    )


def test_rows_in_another_order_give_the_same_parts():
    labels = [0, 1] * 200
    one = training_set(labels)
    backwards = TrainingSet(
        entity="idx",
        features=one.features,
        label="label",
        table=one.table.take(pa.array(range(399, -1, -1))),
        build=1,
    )

    first = split(one, salt="clients", share=0.2)
    second = split(backwards, salt="clients", share=0.2)

    assert first.training.table.equals(second.training.table)
    assert first.holdout.table.equals(second.holdout.table)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3, None] * 40, "found 2, 3, null"),
        ([0.0, 1.0] * 100, "found double"),
        ([0] * 200, r"0 have label 1 and \d+ have label 0; at least 20"),
        ([0, 1] * 5, "at least 20 of each are needed"),
        ([0, 1] * 25, "held out to judge by"),
        ([], "found null"),
    ],
)
def test_what_cannot_train_is_refused_with_what_was_found(labels, message):
    with pytest.raises(TrainingError, match=message):
        split(training_set(labels), salt="clients", share=0.1 if len(labels) == 50 else 0.2)
