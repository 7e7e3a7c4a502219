import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.split import holdout_mask


def held_out(entities, *, salt="clients", share=0.2):
    mask = holdout_mask(entities, salt=salt, share=share)
    return {str(entity) for entity, held in zip(entities, mask, strict=True) if held}


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
    assert holdout_mask([], salt="clients", share=0.2).shape == (0,)
