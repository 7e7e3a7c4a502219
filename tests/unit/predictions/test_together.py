"""Requests answered together are answered as they would be alone, and fail alone."""

import asyncio

import pytest

from gristmill.errors import InvalidFeatures
from gristmill.predictions.predictor import Predictor, load_predictor
from gristmill.predictions.together import Together
from gristmill.registry.bundle import read_bundle


class CountingPredictor(Predictor):
    """The real one, which notes how many rows it was asked for at a time."""

    def answers(self, rows):
        self.__dict__.setdefault("asked", []).append(len(rows))
        return super().answers(rows)


@pytest.fixture
def predictor(bundle_folder, example_model):
    return CountingPredictor(
        graph=example_model.graph(), features=example_model.features, threshold=0.5
    )


def _row(number):
    return {"attr_a": number, "attr_b": "c", "scd_a": number / 7, "scd_b": -number}


def test_many_at_once_are_one_run_with_the_same_bits(predictor, bundle_folder):
    rows = [_row(number) for number in range(50)]

    async def ask():
        together = Together(predictor)
        return await asyncio.gather(*(together.answer(row) for row in rows))

    answers = asyncio.run(ask())
    assert predictor.asked == [50]
    alone = load_predictor(read_bundle(bundle_folder))
    assert answers == [alone.answer(row) for row in rows]


def test_a_wrong_one_fails_alone(predictor):
    rows = [_row(1), _row(2) | {"attr_a": "two"}, {}, _row(3)]

    async def ask():
        together = Together(predictor)
        asked = (together.answer(row) for row in rows)
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask())
    assert [type(each) is InvalidFeatures for each in answers] == [False, True, True, False]
    assert [each.field for each in answers[1:3]] == ["attr_a", "attr_a"]
    assert answers[3] == predictor.answer(_row(3))


def test_where_the_model_itself_fails_nobody_waits_for_ever(predictor):
    predictor._session = None

    async def ask():
        together = Together(predictor)
        asked = (together.answer(_row(number)) for number in range(3))
        async with asyncio.timeout(30):
            return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(each) for each in asyncio.run(ask())] == [AttributeError] * 3


def test_one_that_is_given_up_does_not_disturb_the_others(predictor):
    async def ask():
        together = Together(predictor)
        gone, stays = (asyncio.create_task(together.answer(_row(n))) for n in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(ask()) == predictor.answer(_row(2))
