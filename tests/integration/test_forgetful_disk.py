"""An answer survives a power cut: shown on a disk that forgets what was not synced."""

import json
import subprocess
import sys
from pathlib import Path


def _prove(bundle, folder, how):
    program = Path(__file__).with_name("forgetful_disk.py")
    arguments = [sys.executable, str(program), str(bundle), str(folder), how]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_before_an_answer_is_given_its_record_is_on_the_disk(bundle_folder, tmp_path):
    found = _prove(bundle_folder, tmp_path / "spool", "as it is")
    assert (found["answers"], found["lost"], found["status"]) == (160, 0, 0)
    assert found["syncs"] > 40


def test_a_spool_that_does_not_sync_is_found_out(bundle_folder, tmp_path):
    found = _prove(bundle_folder, tmp_path / "spool", "careless")
    assert (found["answers"], found["status"]) == (160, 0)
    assert found["lost"] > 0
