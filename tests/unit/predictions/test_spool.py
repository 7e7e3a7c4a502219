"""What the spool confirms is on disk; a dead owner's spool is found, a living one's left alone."""

import json
import math
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from datetime import UTC, datetime

import pytest

from gristmill.errors import SpoolError
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.predictions.spool import _connect, adopt_spools, as_record, open_spool


def _prediction(entity="150000", **changes):
    given = {
        "prediction_id": new_prediction_id(),
        "entity": entity,
        "features": {"attr_a": 1, "attr_b": "ü", "scd_a": 0.1 + 0.2, "scd_b": None},
        "probability": 1 / 3,
        "label": 0,
        "model_version": "3",
        "predicted_at": datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC),
        "latency_ms": 0.25,
    }
    return Prediction(**given | changes)


def _entities(groups):
    """The entities of the predictions of all groups, in order."""
    return [record["entity"] for group in groups for record in json.loads(group.records)]


@pytest.fixture
def spool(tmp_path):
    spool = open_spool(tmp_path / "spool")
    yield spool
    spool.close()


def test_predictions_come_back_exactly_and_in_order(spool):
    predictions = [_prediction(str(number)) for number in range(5)]
    spool.append(predictions[:2])
    spool.append(predictions[2:])
    groups = spool.oldest(100)
    assert [group.size for group in groups] == [2, 3]
    assert [json.loads(group.records) for group in groups] == [
        [json.loads(as_record(each)) for each in part]
        for part in (predictions[:2], predictions[2:])
    ]
    first = json.loads(groups[0].records)[0]
    assert first["features"] == predictions[0].features
    assert first["probability"] == 1 / 3
    assert datetime.fromisoformat(first["predicted_at"]) == predictions[0].predicted_at
    assert spool.count == 5
    spool.forget(groups[:1])
    assert _entities(spool.oldest(100)) == ["2", "3", "4"]
    assert spool.count == 3


def test_as_many_groups_as_are_asked_for_and_at_least_one(spool):
    for size in (3, 2, 4):
        spool.append([_prediction() for _ in range(size)])
    assert [group.size for group in spool.oldest(1)] == [3]
    assert [group.size for group in spool.oldest(5)] == [3, 2]
    assert [group.size for group in spool.oldest(8)] == [3, 2]
    assert [group.size for group in spool.oldest(9)] == [3, 2, 4]


def test_what_was_refused_is_set_aside_and_goes_last(spool):
    spool.append([_prediction(str(number)) for number in range(3)])
    spool.append([_prediction("later")])
    (group, _) = spool.oldest(100)
    records = [json.dumps(record).encode() for record in json.loads(group.records)]
    spool.forget([group], refused=records[1:])
    assert _entities(spool.oldest(100)) == ["later"]
    assert [each.record for each in spool.refused(10)] == records[1:]
    assert spool.count == 3

    spool.blame(spool.refused(1)[0])
    assert [(each.record, each.failures) for each in spool.refused(10)] == [
        (records[2], 1),
        (records[1], 2),
    ]
    spool.forget_refused(spool.refused(1))
    assert [each.record for each in spool.refused(10)] == records[1:2]
    assert spool.count == 2


def test_the_age_is_that_of_the_oldest(spool):
    spool.append([_prediction()])
    time.sleep(0.05)
    spool.append([_prediction()])
    first, second = spool.oldest(100)
    assert first.oldest < second.oldest
    assert spool.oldest_seconds() >= 0.05
    spool.forget([first], refused=[first.records[1:-1]])
    spool.forget([second])
    assert spool.oldest_seconds() >= 0.05


def test_an_empty_spool(spool):
    assert (spool.oldest(10), spool.refused(10)) == ([], [])
    assert (spool.count, spool.oldest_seconds()) == (0, 0.0)


def test_many_threads_share_a_spool(spool):
    threads = [
        threading.Thread(target=spool.append, args=([_prediction(str(number))],))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(_entities(spool.oldest(100)), key=int) == [str(n) for n in range(20)]


def test_only_its_owner_may_look_into_the_folder(spool):
    assert spool.path.parent.stat().st_mode & 0o777 == 0o700


def test_closing_removes_an_empty_spool_and_keeps_a_full_one(tmp_path):
    empty, full = open_spool(tmp_path), open_spool(tmp_path)
    full.append([_prediction()])
    empty.close()
    full.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        full.path.name,
        full.path.with_suffix(".lock").name,
    }
    with pytest.raises(SpoolError, match="closed"):
        full.append([_prediction()])


def test_a_living_process_s_spool_is_left_alone(spool):
    assert adopt_spools(spool.path.parent) == ([], None)


def test_a_killed_process_s_spool_is_adopted_with_all_it_confirmed(tmp_path):
    """The child confirms one prediction after another until it is killed without warning."""
    child = _child(
        tmp_path,
        """
        while True:
            prediction = example()
            spool.append([prediction])
            print(prediction.prediction_id, flush=True)
        """,
    )
    confirmed = [child.stdout.readline().strip() for _ in range(50)]
    assert adopt_spools(tmp_path).spools == []
    child.send_signal(signal.SIGKILL)
    with child:
        confirmed += [line.strip() for line in child.stdout if line.endswith("\n")]

    adopted = adopt_spools(tmp_path)
    assert (len(adopted.spools), adopted.problem) == (1, None)
    assert adopt_spools(tmp_path).spools == []
    waiting = adopted.spools[0].oldest(100_000)
    found = [each["prediction_id"] for group in waiting for each in json.loads(group.records)]
    assert adopted.spools[0].count == len(found)
    assert set(confirmed) <= set(found)
    assert len(set(found)) == len(found) <= len(confirmed) + 1
    adopted.spools[0].forget(waiting)
    adopted.spools[0].close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_recovered_from(tmp_path):
    """The kernel refuses the child's writes beyond a file size, then allows them again."""
    child = _child(
        tmp_path,
        """
        import resource
        spool.append([example()])
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        refused = 0
        for _ in range(100):
            try:
                spool.append([example()])
            except SpoolError as error:
                refused += 1
                message = str(error)
        confirmed = spool.count
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        spool.append([example()])
        print(refused, confirmed, spool.count, message)
        """,
    )
    output, _ = child.communicate(timeout=60)
    refused, confirmed, after, message = output.split(maxsplit=3)
    assert int(refused) > 0
    assert int(confirmed) == 101 - int(refused)
    assert int(after) == int(confirmed) + 1
    assert "free space" in message


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="file"):
        open_spool(tmp_path / "file" / "spool")


def test_a_damaged_spool_does_not_keep_others_from_being_adopted(tmp_path):
    spools = [open_spool(tmp_path) for _ in range(3)]
    for spool in spools:
        spool.append([_prediction()])
        spool.close()
    first = min(spool.path for spool in spools)
    first.write_bytes(b"this is no database" * 1000)
    adopted = adopt_spools(tmp_path)
    assert len(adopted.spools) == 2
    assert first.name in str(adopted.problem)
    for spool in adopted.spools:
        spool.close()


def test_a_commit_waits_for_the_disk(tmp_path):
    """Less than FULL (2) does not make a commit in a write-ahead log outlive a power cut."""
    with closing(_connect(tmp_path / "x.spool")) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_features_that_json_has_no_number_for_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        as_record(_prediction(features={"scd_a": math.nan}))


def _child(folder, body):
    """A process of its own, with a spool in the folder."""
    program = textwrap.dedent(
        f"""
            from datetime import UTC, datetime
            from pathlib import Path
            from gristmill.errors import SpoolError
            from gristmill.predictions.prediction import Prediction, new_prediction_id
            from gristmill.predictions.spool import open_spool

            def example():
                return Prediction(
                    prediction_id=new_prediction_id(), entity="1", features={{"a": 1}},
                    probability=0.5, label=1, model_version="3",
                    predicted_at=datetime.now(UTC), latency_ms=0.1,
                )

            spool = open_spool(Path({str(folder)!r}))
            """
    ) + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
