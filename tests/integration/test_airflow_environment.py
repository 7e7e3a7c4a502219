"""Airflow's own environment: installed whole from a locked list, or not used at all.

The installers are the real ones; what they install is a wheel of a few lines, made here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from gristmill.errors import OrchestrationError
from gristmill.orchestration import environment
from gristmill.orchestration.environment import LIST, ensure_environment

ROOT = Path(__file__).parents[2]
NAME = "apache_airflow-9.8.7"
METADATA = "Metadata-Version: 2.1\nName: apache-airflow\nVersion: 9.8.7\n"


EITHER = pytest.mark.parametrize("index", ["uv", "pip"], indirect=True)


class Heard:
    """Keeps what is told of the work."""

    def __init__(self):
        self.begun, self.done_lines = [], []

    def begin(self, what, total):
        self.begun.append((what, total))

    def advance(self, amount):
        pass

    def done(self, line):
        self.done_lines.append(line)


def wheel(folder, code="print('Airflow itself')"):
    folder.mkdir(exist_ok=True)
    path = folder / f"{NAME}-py3-none-any.whl"
    files = {
        "airflow/__init__.py": "",
        "airflow/__main__.py": code,
        f"{NAME}.dist-info/METADATA": METADATA,
        f"{NAME}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{NAME}.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture
def index(request, tmp_path, monkeypatch):
    """A place to install from, by uv unless said otherwise; the locked list of what is there."""
    installer = getattr(request, "param", "uv")
    path = wheel(tmp_path / "index")
    folders = ["/usr/bin", "/bin"]
    if installer == "uv":
        found = shutil.which("uv", path=f"{os.environ['PATH']}:{ROOT / '.uv' / 'bin'}")
        assert found, "make install brings uv"
        folders.insert(0, str(Path(found).parent))
    monkeypatch.setenv("PATH", ":".join(folders))
    assert (shutil.which("uv") is not None) == (installer == "uv")
    for prefix in ("PIP", "UV"):
        monkeypatch.setenv(f"{prefix}_FIND_LINKS", str(path.parent))
        monkeypatch.setenv(f"{prefix}_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return locked(tmp_path / "list.txt", path)


def locked(file, path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file.write_text(f"apache-airflow==9.8.7 \\\n    --hash=sha256:{digest}\n")
    return file


@EITHER
def test_it_is_installed_once_and_runs(index, tmp_path):
    heard = Heard()
    cache = tmp_path / "cache"
    first = ensure_environment(cache, heard, locked_list=index)
    again = ensure_environment(cache, heard, locked_list=index)
    assert first == again
    done = subprocess.run(first.command("version"), capture_output=True, text=True, check=True)
    assert done.stdout == "Airflow itself\n"
    assert heard.begun == [("installing Airflow 9.8.7, this once", 1)]
    assert heard.done_lines == [f"Airflow 9.8.7: installed in {first.folder}"]


def test_two_at_once_install_once(index, tmp_path):
    heard = Heard()
    found = []

    def ensure():
        found.append(ensure_environment(tmp_path / "cache", heard, locked_list=index))

    threads = [threading.Thread(target=ensure) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(heard.begun) == 1


def test_what_was_begun_and_not_finished_is_made_anew(index, tmp_path):
    made = ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    (made.folder / "installed").unlink()
    (main,) = made.folder.glob("lib/*/site-packages/airflow/__main__.py")
    main.unlink()  # uv's own copy is the same file.
    main.write_text("half a fi")
    assert ensure_environment(tmp_path / "cache", Heard(), locked_list=index) == made
    assert "Airflow itself" in main.read_text()


def test_one_whose_interpreter_is_gone_is_made_anew(index, tmp_path):
    made = ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    made.python.unlink()
    made.python.symlink_to(tmp_path / "nowhere")
    ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    done = subprocess.run(made.command(), capture_output=True, text=True, check=True)
    assert done.stdout == "Airflow itself\n"


def test_another_list_is_another_environment(index, tmp_path):
    first = ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    index.write_text(f"# changed\n{index.read_text()}")
    second = ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    assert first.folder != second.folder
    assert (first.folder / "installed").exists()


@EITHER
def test_a_file_that_is_not_the_locked_one_is_refused(index, tmp_path):
    wheel(tmp_path / "index", code="print('somebody else')")
    with pytest.raises(OrchestrationError, match=r"Airflow 9.8.7 cannot be installed") as caught:
        ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    assert "hash" in str(caught.value).lower()
    locked(index, next((tmp_path / "index").iterdir()))
    ensure_environment(tmp_path / "cache", Heard(), locked_list=index)


def test_a_disk_that_is_too_small_is_told_before_anything_is_made(index, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "DISK", 1 << 60)
    with pytest.raises(OrchestrationError, match=r"GB are free there\. Free some"):
        ensure_environment(tmp_path / "cache", Heard(), locked_list=index)
    assert not list((tmp_path / "cache").glob("*/"))


def test_a_cache_that_cannot_be_written_is_told(index, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OrchestrationError, match="XDG_CACHE_HOME"):
        ensure_environment(tmp_path / "cache", Heard(), locked_list=index)


def test_every_package_of_the_list_has_its_version_and_its_digests():
    entries = LIST.read_text("utf-8").replace("\\\n", " ").splitlines()
    packages = [line for line in entries if not line.startswith("#")]
    assert len(packages) > 100
    assert [line for line in packages if "==" not in line or "--hash=sha256:" not in line] == []


def test_the_list_is_what_make_lock_resolves_from_what_is_asked_for():
    asked = LIST.with_suffix(".in").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in LIST.read_text("utf-8").splitlines()}
    wanted = {
        line.partition("[")[0].partition("<")[0].partition(">")[0].partition("=")[0]
        for line in asked
        if not line.startswith("#")
    }
    assert wanted <= pinned
    assert "apache-airflow==3.3.2" in asked
    assert sys.version_info < (3, 15)
