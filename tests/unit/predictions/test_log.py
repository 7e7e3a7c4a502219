"""Nobody is told that an answer is on record before it is; what fails is counted or refused."""

import asyncio
import json
import subprocess
import sys
import textwrap
from concurrent.futures import Future
from datetime import UTC, datetime

import pytest

from gristmill.errors import KeyInUse, KeyReused, SpoolError
from gristmill.predictions import log as room
from gristmill.predictions.log import PredictionLog
from gristmill.predictions.once import Remembered
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.predictions.spool import adopt_spools, as_record


def _prediction(entity="150000", **changes):
    given = {
        "prediction_id": new_prediction_id(),
        "entity": entity,
        "features": {"attr_a": 1, "attr_b": 'ü"\\', "scd_a": 0.1 + 0.2, "scd_b": None},
        "probability": 1 / 3,
        "label": 0,
        "model_version": "3",
        "predicted_at": datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC),
        "latency_ms": 0.25,
    }
    return Prediction(**given | changes)


def _left(folder):
    """What a closed log leaves: the records of each commit."""
    (spool,) = adopt_spools(folder).spools
    groups = spool.oldest(1_000_000)
    spool.close()
    return [json.loads(group.records) for group in groups]


def _run(folder, work):
    """Do something with a log in an event loop; what it comes to, and what is on record."""

    async def all_of_it():
        log = PredictionLog(folder)
        try:
            return await work(log)
        finally:
            await asyncio.to_thread(log.close)

    result = asyncio.run(all_of_it())
    return result, _left(folder)


def test_a_record_is_what_the_command_line_would_have_written(tmp_path):
    prediction = _prediction()
    _, left = _run(tmp_path, lambda log: log.append([prediction]))
    ((found,),) = left
    expected = json.loads(as_record(prediction))
    for record in (found, expected):
        record["predicted_at"] = datetime.fromisoformat(record["predicted_at"])
    assert found == expected


def test_requests_that_come_together_share_a_commit_and_each_stays_whole(tmp_path):
    batches = [[_prediction(f"{n} {m}") for m in range(n + 1)] for n in range(30)]

    async def append_all(log):
        await asyncio.gather(*(log.append(batch) for batch in batches))
        return log.status

    status, left = _run(tmp_path, append_all)
    total = sum(map(len, batches))
    assert (status.depth, status.state, status.unlogged) == (total, "writing", 0)
    assert status.shipping == "off"
    found = [record["prediction_id"] for group in left for record in group]
    assert found == [str(each.prediction_id) for batch in batches for each in batch]
    assert len(left) == 1


def test_what_comes_while_a_commit_is_under_way_goes_into_the_next(tmp_path):
    async def append_in_turn(log):
        for _ in range(20):
            await asyncio.gather(*(log.append([_prediction()]) for _ in range(5)))

    _, left = _run(tmp_path, append_in_turn)
    assert [len(group) for group in left] == [5] * 20


def test_who_gives_up_waiting_does_not_disturb_the_others(tmp_path):
    async def give_up(log):
        gone = asyncio.create_task(log.append([_prediction("gone")]))
        stays = asyncio.create_task(log.append([_prediction("stays")]))
        await asyncio.sleep(0)
        gone.cancel()
        await stays

    _, left = _run(tmp_path, give_up)
    assert "stays" in {record["entity"] for group in left for record in group}


# Answering once


async def _answer_once(log, key="k", digest=b"d", entity="1", answer=b"first"):
    async with log.once(key, digest) as once:
        if once.answer is None:
            await once.append([_prediction(entity)], answer)
        return once.answer


def test_a_key_is_answered_and_put_on_record_once(tmp_path):
    async def twice(log):
        return [await _answer_once(log, answer=answer) for answer in (b"first", b"second")]

    answers, left = _run(tmp_path, twice)
    assert answers == [b"first", b"first"]
    assert len(left) == 1


def test_a_request_that_fails_frees_its_key(tmp_path):
    async def fail_first(log):
        with pytest.raises(ZeroDivisionError):
            async with log.once("k", b"d"):
                raise ZeroDivisionError
        return await _answer_once(log)

    answer, left = _run(tmp_path, fail_first)
    assert answer == b"first"
    assert len(left) == 1


def test_the_same_key_at_the_same_time_and_with_another_request(tmp_path):
    async def clash(log):
        async with log.once("k", b"d") as once:
            with pytest.raises(KeyInUse):
                await _answer_once(log)
            with pytest.raises(KeyReused):
                await _answer_once(log, digest=b"other")
            await once.append([_prediction()], b"first")
        return await _answer_once(log)

    assert _run(tmp_path, clash)[0] == b"first"


def test_an_answer_whose_record_was_lost_is_put_on_record_when_it_is_given_again(tmp_path):
    """A worker remembers the answer and dies before its record is on disk."""
    records = as_record(_prediction("lost")).encode()

    async def remember(log):
        await log._in_thread(log._answers.claim, "k", b"d")
        found = Remembered(answer=b"first", records=records, count=1)
        await log._in_thread(log._answers.remember, "k", found)

    async def again(log):
        return [await _answer_once(log), await _answer_once(log)]

    asyncio.run(_with_log(tmp_path, remember))
    answers, left = _run(tmp_path, again)
    assert answers == [b"first", b"first"]
    assert [[record["entity"] for record in group] for group in left] == [["lost"]]


async def _with_log(folder, work):
    log = PredictionLog(folder)
    await work(log)
    await asyncio.to_thread(log.close)


# A disk that refuses


PROGRAM = """
import asyncio, json, resource, sys
from datetime import UTC, datetime
from pathlib import Path
from gristmill.errors import SpoolError
from gristmill.predictions import log as room
from gristmill.predictions.log import PredictionLog
from gristmill.predictions.prediction import Prediction, new_prediction_id

room.TICK = 0.05

def example():
    return Prediction(
        prediction_id=new_prediction_id(), entity="1", features={"a": "x" * 1000},
        probability=0.5, label=1, model_version="3",
        predicted_at=datetime.now(UTC), latency_ms=0.1,
    )

def allow(octets):
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, resource.RLIM_INFINITY))

async def fill(log):
    answered = refused = 0
    log.start()
    allow(100_000)
    for _ in range(300):
        try:
            await log.append([example()])
            answered += 1
        except SpoolError:
            refused += 1
    full = log.status
    allow(resource.RLIM_INFINITY)
    while log.status.state == "failing":
        await asyncio.sleep(0.05)
    await log.append([example()])
    well = log.status
    await asyncio.to_thread(log.close)
    print(json.dumps([answered, refused, full.depth, full.state, full.unlogged,
                      well.depth, well.state, well.unlogged]))

log = PredictionLog(Path(sys.argv[1]), best_effort=sys.argv[2] == "best_effort")
asyncio.run(fill(log))
"""


def _fill(folder, policy):
    program = textwrap.dedent(PROGRAM)
    arguments = [sys.executable, "-c", program, str(folder), policy]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_full_disk_refuses_and_is_well_again_by_itself(tmp_path):
    """The kernel refuses to let files grow, as a full disk does, and then allows it again."""
    found, told = _fill(tmp_path, "durable")
    answered, refused, depth, state, unlogged, depth_after, state_after, _ = found
    assert refused > 0
    assert (answered + refused, depth, state, unlogged) == (300, answered, "failing", 0)
    assert (depth_after, state_after) == (answered + 1, "writing")
    assert "cannot be put on record" in told
    assert told.count("on record again") == 1
    assert sum(map(len, _left(tmp_path))) == answered + 1


def test_at_best_effort_a_full_disk_is_counted(tmp_path):
    found, _ = _fill(tmp_path, "best_effort")
    answered, refused, depth, state, unlogged, depth_after, state_after, unlogged_after = found
    assert (answered, refused, state) == (300, 0, "failing")
    assert unlogged > 0
    assert depth + unlogged == answered
    assert (depth_after, state_after, unlogged_after) == (depth + 1, "writing", unlogged)
    assert sum(map(len, _left(tmp_path))) == depth + 1


def test_who_was_told_of_a_stalled_disk_is_not_told_again_by_its_end(tmp_path, monkeypatch):
    """A second word would be a second answer on the same connection."""
    monkeypatch.setattr(room, "STALLED", 0.05)
    monkeypatch.setattr(room, "TICK", 0.02)
    told = []

    async def stall():
        log = PredictionLog(tmp_path)
        log.start()
        stuck = Future()
        with monkeypatch.context() as patched:
            patched.setattr(log._spool, "append_soon", lambda *_: stuck)
            log.append_soon([_prediction()], told.append)
            async with asyncio.timeout(60):
                while not told:
                    await asyncio.sleep(0.01)
                stuck.set_result(None)
                while log._writing:
                    await asyncio.sleep(0.01)
        await log.append([_prediction()])
        await asyncio.to_thread(log.close)

    asyncio.run(stall())
    assert [type(one) for one in told] == [SpoolError]
