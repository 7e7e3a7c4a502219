from dataclasses import replace

import numpy as np

from gristmill.training.attempts import Asked
from gristmill.training.spending import generation_of

ASKED = Asked(
    entities=["7", "8", "9"],
    labels=np.array([0, 1, 0]),
    scores=np.array([0.1, 0.9, 0.4]),
    champion=None,
    chance_spent=True,
    moments=np.array([10, 20, 30]),
)


def test_a_question_is_who_with_which_labels_and_scores():
    same = replace(ASKED, champion="3", chance_spent=False, moments=None)
    assert same.digest == ASKED.digest
    others = [
        replace(ASKED, entities=["7", "8", "10"]),
        replace(ASKED, labels=np.array([0, 1, 1])),
        replace(ASKED, scores=np.array([0.1, 0.9, np.nextafter(0.4, 1)])),
    ]
    assert len({ASKED.digest, *(other.digest for other in others)}) == 4


def test_a_younger_label_of_the_same_entity_is_a_new_row():
    assert ASKED.rows_since(None) == ["7", "8", "9"]
    assert ASKED.rows_since(20) == ["7", "8", "9 30"]
    assert replace(ASKED, moments=None).rows_since(20) == ["7", "8", "9"]
    assert (ASKED.known_until, replace(ASKED, moments=None).known_until) == (30, None)

    def generation(known_until):
        return generation_of(ASKED.rows_since(known_until), last=1, began_with=ASKED.entities)

    assert [generation(known_until) for known_until in (30, 20, 10)] == [1, 1, 2]
