"""Answers plain `POST /predict` requests: those that came together by one model run and one commit.

It refuses nothing: what is not plain, or goes wrong, goes the ordinary way through the application,
which says what is wrong. So both ways give the same answers, and only one of them says no.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from gristmill.errors import GristmillError, PredictionError
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.serving.bodies import read_asked
from gristmill.serving.problems import Refused
from gristmill.serving.schema import Answer
from gristmill.serving.service import encode

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from starlette.types import Scope

    from gristmill.errors import SpoolError
    from gristmill.predictions import predictor
    from gristmill.serving.bodies import Asked
    from gristmill.serving.guard import Entrance
    from gristmill.serving.service import Served, Service

logger = logging.getLogger(__name__)

ROUTE = "/predict"
FAST_PATH = "fast_path"
"""By this name the application's lifespan tells the server of it."""
LARGEST = 1 << 16
"""Bytes of a plain body: uvicorn reads more only when somebody asks for it."""
TOGETHER = 256
"""Requests that are answered at once even if more are coming."""
_UNUSUAL = frozenset({b"idempotency-key", b"expect", b"content-encoding", b"transfer-encoding"})


class Plain(NamedTuple):
    """A request that waits for its answer."""

    body: bytes
    request_id: bytes
    started: float
    """When its headers had arrived, by `time.perf_counter`."""
    answer: Callable[[bytes, bytes], None]
    """Gives the body of the answer, and the request's id."""
    go_on: Callable[[], None]
    """Has it go the ordinary way instead."""


class FastPath:
    """One worker's way for plain requests."""

    def __init__(self, service: Service, entrance: Entrance) -> None:
        self._service = service
        self._entrance = entrance
        self._waiting: list[Plain] = []

    def admit(self, scope: Scope) -> bytes | None:
        """The id of a request that is plain and let in; None where it goes the ordinary way."""
        if scope["path"] != ROUTE or scope["method"] != "POST":
            return None
        headers = dict(scope["headers"])
        if (
            headers.get(b"content-type") != b"application/json"
            or not 0 < int(headers.get(b"content-length", 0)) <= LARGEST
            or not _UNUSUAL.isdisjoint(headers)
        ):
            return None
        admission = self._entrance.admit(scope)
        return None if admission.refusal else admission.request_id

    def take(self, request: Plain, loop: asyncio.AbstractEventLoop) -> None:
        """Answer a request that was admitted, together with those that come in the same turn."""
        self._waiting.append(request)
        if len(self._waiting) == 1:
            loop.call_soon(self._gather, 1, loop)

    def _gather(self, before: int, loop: asyncio.AbstractEventLoop) -> None:
        """Answer what waits, unless more of it came in this turn of the loop: then look again."""
        if before < len(self._waiting) < TOGETHER:
            loop.call_soon(self._gather, len(self._waiting), loop)
        else:
            self._answer()

    def _answer(self) -> None:
        requests, self._waiting = self._waiting, []
        try:
            self._answer_all(requests)
        except Exception as error:  # noqa: BLE001 (whoever waits must not wait for ever)
            logger.error("The fast path failed: %s", type(error).__name__)  # noqa: TRY400
            for request in requests:
                request.go_on()

    def _answer_all(self, requests: Sequence[Plain]) -> None:
        """Have each answered once it is on record, or go on."""
        served = self._service.served
        asked = [_asked(request, served) for request in requests]
        answers = _answers(served, asked)
        now, ended = datetime.now(UTC), time.perf_counter()
        version = served.manifest.version
        given: list[tuple[Plain, Prediction]] = []
        unanswered = []
        for request, one, answer in zip(requests, asked, answers, strict=True):
            if one is None or answer is None:
                unanswered.append(request)
                continue
            prediction = Prediction(
                prediction_id=new_prediction_id(),
                entity=str(one.key),
                features=one.features,
                probability=answer.probability,
                label=answer.label,
                model_version=version,
                predicted_at=now,
                latency_ms=(ended - request.started) * 1000,
            )
            given.append((request, prediction))
        if given:
            told = partial(self._give, given, served.manifest.no_signal)
            self._service.log.append_soon([prediction for _, prediction in given], told)
        # Last: where anything before fails, all of them go on, and none of them twice.
        for request in unanswered:
            request.go_on()

    def _give(
        self,
        given: Sequence[tuple[Plain, Prediction]],
        no_signal: bool,
        error: SpoolError | None,
    ) -> None:
        """Send the answers that are on record; without one, the ordinary way says so."""
        if error:
            for request, _ in given:
                request.go_on()
            return
        counters = self._service.counters
        counters.add("predictions", len(given))
        for request, prediction in given:
            answer = Answer(
                label=prediction.label,
                probability=prediction.probability,
                model_version=prediction.model_version,
                prediction_id=prediction.prediction_id,
                no_signal=no_signal,
            )
            request.answer(encode(answer), request.request_id)
            counters.count(ROUTE, 200, time.perf_counter() - request.started)


def _asked(request: Plain, served: Served) -> Asked | None:
    try:
        return read_asked(request.body, served.manifest.entity)
    except (Refused, GristmillError):
        return None


def _answers(served: Served, asked: Sequence[Asked | None]) -> list[predictor.Answer | None]:
    """The answers for what is asked, by one run of the model where that has one for each."""
    rows = [one.features for one in asked if one]
    try:
        found = iter(served.predictor.answers(rows))
    except PredictionError:
        return [_answer_alone(served, one) for one in asked]
    return [next(found) if one else None for one in asked]


def _answer_alone(served: Served, one: Asked | None) -> predictor.Answer | None:
    try:
        return served.predictor.answer(one.features) if one else None
    except PredictionError:
        return None
