"""The shape of the product: its public names, who may import whom, and what runs without what."""

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

import gristmill

ROOT = Path(__file__).parents[1]
REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""
NEEDS_TRAIN = {"sklearn", "mlflow", "onnx", "pandas", "scipy", "sqlalchemy", "skl2onnx"}
NEEDS_SERVE = {"starlette", "uvicorn", "msgspec", "uvloop", "httptools", "anyio"}


def without(refused, code, *arguments):
    """Run code in a Python that has not got some packages; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSE.format(refused=sorted(refused)) + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_public_names_are_these():
    tree = ast.parse(Path(gristmill.__file__).read_text(encoding="utf-8"))
    names = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    names |= {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert names == {"__version__"}


def test_the_version_is_that_of_the_package():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{gristmill.__version__}"\n' in project


def test_who_may_import_whom_is_as_agreed():
    """A change of the rule of the house is made on purpose: here too, and said in the commit."""
    contracts = (ROOT / ".importlinter").read_bytes()
    agreed = "45ebe2c1f92356eea8c1c2ea1032efb8ae95639308e1335d1c288d01e4c6847f"
    assert hashlib.sha256(contracts).hexdigest() == agreed


@pytest.mark.parametrize("path", sorted(ROOT.glob("src/gristmill/**/*.py")), ids=lambda p: p.stem)
def test_a_module_says_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not text or ast.get_docstring(tree)
    assert len(text.splitlines()) <= 600


@pytest.mark.parametrize("path", sorted(ROOT.glob("src/gristmill/**/*.py")), ids=lambda p: p.stem)
def test_no_module_of_ours_is_imported_inside_a_function(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = [
        ast.unparse(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "gristmill" in ast.unparse(node)
    ]
    assert hidden == []


def test_only_the_settings_read_the_environment():
    """But for the command line, which hands it to the program that it becomes."""
    readers = set()
    for path in ROOT.glob("src/gristmill/**/*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        set_only = {
            id(node.value)
            for node in nodes
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
        }
        for node in nodes:
            environment = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
            if environment and id(node) not in set_only:
                readers.add(str(path.relative_to(ROOT / "src/gristmill")))
    assert readers <= {"cli.py", "settings.py"}


def test_the_base_install_has_the_command_line():
    extras = NEEDS_TRAIN | NEEDS_SERVE | {"onnxruntime"}
    code = "import gristmill.cli\nsys.argv = ['gristmill', '--help']\ngristmill.cli.main()"
    printed = without(extras, code)
    assert "Train, judge, register" in printed


SERVE = """
from pathlib import Path
from starlette.testclient import TestClient
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment

deployment = Deployment(bundle=Path(sys.argv[1]), spool=Path(sys.argv[2]))
with TestClient(build(deployment), base_url="http://127.0.0.1") as client:
    features = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
    answer = client.post("/predict", json={"idx": 7, "features": features})
    print(answer.status_code, answer.json()["probability"])
"""


def test_the_serving_image_needs_nothing_of_training(bundle_folder, tmp_path, example_model):
    printed = without(NEEDS_TRAIN, SERVE, str(bundle_folder), str(tmp_path / "spool"))
    status, probability = printed.split()
    assert status == "200"
    expected = example_model.probability(attr_a=1, attr_b="c", scd_a=0.55, scd_b=3)
    assert float(probability) == pytest.approx(expected, abs=1e-15)
