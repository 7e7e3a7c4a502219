"""The base install, without the extras `train` and `serve`, checks, loads, builds and shows."""

import os
import subprocess
import sys

EXTRAS = ["sklearn", "mlflow", "onnx", "onnxruntime", "pandas", "scipy", "sqlalchemy", "starlette",
          "uvicorn", "msgspec"]  # fmt: skip
RUN = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
from gristmill.cli import main
main()
"""
PROJECT = """
[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
columns = { date = "date", value = "integer" }
[derived.totals]
sql = "totals.sql"
from = ["sales"]
"""


def gristmill(shop, *words):
    environment = {key: value for key, value in os.environ.items() if "GRISTMILL" not in key}
    environment |= {"GRISTMILL_DATABASE_URL": shop.warehouse.url}
    return subprocess.run(
        [sys.executable, "-c", RUN, "--project", str(shop.folder), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_base_install_loads_and_builds(shop):
    shop.declare(PROJECT, totals="SELECT sum(value) AS value FROM sales")
    shop.put("sales/2020-01.csv", "date,value\n2020-01-05,3\n")
    shop.put("sales/2020-02.csv", "date,value\n2020-02-05,4\n")
    for words in (["check"], ["load"], ["build"], ["status"], ["diff", "sales"], ["explore"]):
        done = gristmill(shop, *words)
        assert done.returncode == 0, done.stderr
    assert shop.rows("SELECT value FROM totals") == [(7,)]
