"""What Compose reads: secrets that are made anew, whole settings. No engine is needed."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from .tools import ROOT, need


@pytest.fixture
def checkout(tmp_path):
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    for name in ("docker-compose.yml", "docker-compose.production.yml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make_env(folder, *words):
    return subprocess.run(
        [folder / "deploy/make-env", *words], capture_output=True, text=True, check=False
    )


def settings_of(folder):
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_make_env_writes_other_secrets_each_time_and_over_nothing(checkout):
    made = []
    for _ in range(2):
        assert make_env(checkout, "s3://bucket").returncode == 0
        assert stat.S_IMODE((checkout / ".env").stat().st_mode) == 0o600
        assert settings_of(checkout)["GRISTMILL_SOURCE"] == "s3://bucket"
        made.append(settings_of(checkout))
        kept = (checkout / ".env").read_bytes()
        again = make_env(checkout)
        assert again.returncode == 1
        assert "nothing is written over" in again.stderr
        assert (checkout / ".env").read_bytes() == kept
        (checkout / ".env").unlink()
    secret = [name for name in made[0] if re.search("PASSWORD|SECRET|API_KEY", name)]
    secret = [name for name in secret if not name.startswith("AWS")]
    values = [each[name] for each in made for name in secret]
    assert len(set(values)) == len(values) == 16
    assert min(map(len, values)) >= 32
    assert sorted(path.name for path in checkout.glob(".env*")) == []


@pytest.mark.parametrize("source", ["-x", "s3://a b", "$(id)", "a\nADMIN_PASSWORD=x", "`id`"])
def test_make_env_refuses_what_is_no_source(checkout, source):
    assert make_env(checkout, source).returncode == 2
    assert not (checkout / ".env").exists()


@pytest.mark.parametrize("files", [[], ["docker-compose.production.yml"]])
def test_the_files_are_ones_that_compose_reads(checkout, files):
    names = [word for name in ["docker-compose.yml", *files] for word in ("-f", name)]
    command = [need("docker-compose"), *names, "config"]
    environment = {"PATH": os.environ["PATH"], "DOMAIN": "example.org", "CERTIFICATES": "/c"}

    def read():
        return subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )

    refused = read()
    assert refused.returncode != 0
    assert "make env first" in refused.stderr + refused.stdout
    assert make_env(checkout).returncode == 0
    done = read()
    assert done.returncode == 0, done.stderr


def test_the_image_installs_by_the_uv_that_the_makefile_names():
    version = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert version is not None
    assert f"uv=={version[1]} " in Path(ROOT / "deploy/uv.txt").read_text()
