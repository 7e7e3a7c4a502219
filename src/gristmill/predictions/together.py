"""Answers requests that came together by one run of the model.

One run for 32 rows takes as long as three for one row each, and gives the same bits. What is wrong
with one request is told to that one alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from gristmill.errors import PredictionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gristmill.predictions.predictor import Answer, Predictor


class _Asked(NamedTuple):
    """One request."""

    features: Mapping[str, Any]
    done: asyncio.Future[Answer]


class Together:
    """One model version's requests in one event loop."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._asked: list[_Asked] = []

    async def answer(self, features: Mapping[str, Any]) -> Answer:
        """The answer for one set of features; raises what `Predictor.answer` raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Answer] = loop.create_future()
        self._asked.append(_Asked(features, done))
        if len(self._asked) == 1:
            # Not at once: all that the loop has read in this turn is answered together.
            loop.call_soon(self._answer)
        return await done

    def _answer(self) -> None:
        asked, self._asked = self._asked, []
        self._answer_all(asked)

    def _answer_all(self, asked: Sequence[_Asked]) -> None:
        try:
            answers = self._predictor.answers([one.features for one in asked])
        except PredictionError as error:
            if len(asked) > 1:
                for one in asked:
                    self._answer_all([one])
            else:
                _fail(asked, error)
            return
        except Exception as error:  # noqa: BLE001 (whoever asked raises it, and waits no more)
            _fail(asked, error)
            return
        for one, answer in zip(asked, answers, strict=True):
            if not one.done.done():
                one.done.set_result(answer)


def _fail(asked: Sequence[_Asked], error: Exception) -> None:
    for one in asked:
        if not one.done.done():
            one.done.set_exception(error)
