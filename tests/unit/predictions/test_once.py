"""One key has one answer: for all workers, after a death, until it is forgotten."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from gristmill.errors import KeyInUse, KeyReused, SpoolError
from gristmill.predictions import once
from gristmill.predictions.once import Remembered, RememberedAnswers


@pytest.fixture
def workers(tmp_path):
    """Two workers of one folder."""
    both = RememberedAnswers(tmp_path), RememberedAnswers(tmp_path)
    yield both
    for each in both:
        each.close()


def _found(answer=b"{}", records=b'{"a":1}'):
    return Remembered(answer=answer, records=records, count=1)


def test_the_first_answer_is_given_again_by_every_worker(workers):
    first, second = workers
    assert first.claim("k", b"d") is None
    first.remember("k", _found(b"first"))
    assert first.claim("k", b"d") == second.claim("k", b"d") == _found(b"first")
    first.forget_records("k")
    assert second.claim("k", b"d") == _found(b"first", None)


def test_keys_are_told_apart(workers):
    first, _ = workers
    assert first.claim("k", b"d") is None
    first.remember("k", _found())
    assert first.claim("K", b"d") is None
    assert first.claim("k ", b"d") is None


def test_a_key_with_another_request_is_refused(workers):
    first, second = workers
    assert first.claim("k", b"d") is None
    for worker in workers:
        with pytest.raises(KeyReused):
            worker.claim("k", b"other")
    first.remember("k", _found())
    with pytest.raises(KeyReused):
        second.claim("k", b"other")


def test_a_key_whose_request_is_not_answered_yet_is_in_use_everywhere(workers):
    first, second = workers
    assert first.claim("k", b"d") is None
    for worker in workers:
        with pytest.raises(KeyInUse):
            worker.claim("k", b"d")
    first.release("k")
    assert second.claim("k", b"d") is None


def test_an_answer_is_not_released(workers):
    first, second = workers
    first.claim("k", b"d")
    first.remember("k", _found())
    first.release("k")
    assert second.claim("k", b"d") == _found()


def test_what_a_dead_worker_claimed_is_free_and_what_it_answered_is_not(workers, tmp_path):
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from gristmill.predictions.once import Remembered, RememberedAnswers
        answers = RememberedAnswers(Path({str(tmp_path)!r}))
        answers.claim("answered", b"d")
        answers.remember("answered", Remembered(answer=b"x", records=b"y", count=1))
        answers.claim("claimed", b"d")
        print("now", flush=True)
        time.sleep(600)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "now\n"
        with pytest.raises(KeyInUse):
            workers[0].claim("claimed", b"d")
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert workers[0].claim("claimed", b"d") is None
    assert workers[0].claim("answered", b"d") == Remembered(answer=b"x", records=b"y", count=1)


def test_after_a_day_a_key_is_new(workers, monkeypatch):
    first, second = workers
    first.claim("k", b"d")
    first.remember("k", _found())
    moment = once.time.time() + once.REMEMBERED_SECONDS
    monkeypatch.setattr(once.time, "time", lambda: moment - 60)
    assert second.claim("k", b"d") == _found()
    monkeypatch.setattr(once.time, "time", lambda: moment + 60)
    assert second.claim("k", b"another request") is None


def test_nothing_is_opened_before_a_request_with_a_key(tmp_path):
    RememberedAnswers(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_who_is_gone_leaves_no_lock(tmp_path):
    answers = RememberedAnswers(tmp_path)
    answers.claim("k", b"d")
    assert len(list(tmp_path.glob("*.owner"))) == 1
    answers.close()
    assert list(tmp_path.glob("*.owner")) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="file"):
        RememberedAnswers(tmp_path / "file").claim("k", b"d")
