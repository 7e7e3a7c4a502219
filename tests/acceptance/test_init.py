"""`gristmill init` as a person types it: what it prints, and how it exits."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def gristmill(tmp_path):
    """Runs a command in a folder that has the bucket `shop` beside the project `mine`."""
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "customers.csv").write_text("customer_id,age,churned\n1,30,0\n2,40,1\n")
    (shop / "notes.txt").write_text("hello")
    (tmp_path / "mine").mkdir()
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("GRISTMILL_")
    }

    def run(*arguments, **settings):
        return subprocess.run(
            [sys.executable, "-m", "gristmill", "--project", "mine", *arguments],
            cwd=tmp_path, env={**inherited, **settings}, capture_output=True, text=True,
        )  # fmt: skip

    return run


def test_it_writes_the_draft_and_tells_what_it_left_out(gristmill, tmp_path):
    done = gristmill("init", "shop")
    assert done.returncode == 0, done.stderr
    assert "left out: notes.txt: " in done.stdout
    assert 'source = "../shop"' in (tmp_path / "mine" / "gristmill.toml").read_text()


def test_it_prints_every_doubt_that_is_in_the_file(gristmill, tmp_path):
    (tmp_path / "shop" / "codes.csv").write_text("zip,n\n01234,1\n01235,1\n")
    done = gristmill("init", "shop")
    written = (tmp_path / "mine" / "gristmill.toml").read_text().splitlines()
    in_file = {line.removeprefix("# unsure: ") for line in written if line.startswith("# unsure: ")}
    printed = [line for line in done.stdout.splitlines() if line.startswith("unsure: ")]
    assert {line.split(": ", 2)[2] for line in printed} == in_file
    assert any(line.startswith("unsure: tables.codes.columns.zip: ") for line in printed)


def test_it_never_writes_over_a_project(gristmill):
    assert gristmill("init", "shop").returncode == 0
    again = gristmill("init", "shop")
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_the_source_may_be_a_setting_that_counts_from_the_project(gristmill):
    assert gristmill("init", GRISTMILL_SOURCE="../shop").returncode == 0


def test_without_a_source_it_is_wrong_usage(gristmill):
    assert gristmill("init").returncode == 2
