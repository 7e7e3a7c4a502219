"""Every command as a person types it: what it answers, and what it says of bad input."""

import csv
import io
import json
import logging
import os
import pwd
import socket
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psycopg
import pytest
from mlflow import MlflowClient
from psycopg.conninfo import conninfo_to_dict

from gristmill import __version__, cli
from gristmill.registry.tracking import tracking_url
from gristmill.serving.logs import LOG_CONFIG

pytestmark = pytest.mark.xdist_group("commands")  # one installation for all

MONTHS = ("2025-10", "2025-11", "2025-12")


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("commands") / "bucket"


@pytest.fixture(scope="module")
def installation(install, bucket):
    """The sample loaded, built and trained, and a version promoted whatever the verdict."""
    made = install("clients", source=bucket)
    made.run("sample", str(bucket), "--customers", "300", "--months", "3")
    made.run("run")
    made.run("promote", "1", "--force", "--why", "for the tests")
    return made


@pytest.fixture
def type_in(installation, monkeypatch, capsys):
    """Runs a command in this process, which saves the start of another; how it ended."""
    for name in [name for name in os.environ if name.startswith("GRISTMILL_")]:
        monkeypatch.delenv(name)
    for name, value in installation.variables.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, project: Path | None = None) -> Said:
        options = ["--project", str(project or installation.project)]
        monkeypatch.setattr("sys.argv", ["gristmill", *options, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Said(int(ended.value.code or 0), *capsys.readouterr())

    yield run
    # `serve` sets up its log, on an output that ends with the test.
    for name in LOG_CONFIG["loggers"]:
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def labels(type_in, bucket):
    """The labels, which are loaded again as they were once the test is over."""
    file = bucket / "labels.csv"
    content = file.read_text()
    yield file
    file.write_text(content)
    type_in("load", "labels", "--again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("load", "nonsense"), "There is no table 'nonsense'; the project has customer_profiles,"),
        (("load", "sales", "--period", "1999-01"), "the bucket has no file for 1999-01"),
        (("load", "--from", "2030-01"), "the bucket has no file for 2030-01 to the last"),
        (("load", "sales", "--period", "soon"), "'soon' is not a month such as 2020-01"),
        (("build", "nonsense"), "'nonsense' is nothing that is built; there are monthly_sales,"),
        (("show", "labels"), "There is no derived table 'labels'; the project has monthly_sales,"),
        (("rejects", "nonsense"), "There is no table 'nonsense'"),
        (("diff", "nonsense"), "There is no table 'nonsense'"),
        (("diff", "sales", "--period", "soon"), "sales: 'soon' is not a month"),
        (("diff", "sales", "--period", "1999-01"), "sales: nothing is loaded for 1999-01"),
        (("diff", "sales", "--period", "2025-12"), "is the first of 2025-12"),
        (("diff", "stores", "--period", "2025-12"), "stores has no periods"),
        (("undo", "nonsense"), "There is no table 'nonsense'"),
        (("undo", "sales"), "sales has many periods: name one"),
        (("undo", "sales", "--period", "soon"), "sales: 'soon' is not a month"),
        (("undo", "stores", "--period", "2025-12"), "stores has no periods"),
        (("models", "99"), "There is no model version 99; there are 1."),
        (("promote", "99"), "There is no model version 99"),
        (("rollback",), "is the first champion"),
        (("predict", "1"), "1"),
        (("trace", "1"), "'1' is not the id of a prediction"),
        (("trace", "01a206cc-36a7-70d5-8e59-ebb8c933f363"), "There is no prediction 01a206cc-"),
        (("predict", "one"), "idx must be a whole number"),
        (("serve", "--host", "0.0.0.0"), "Make one with `gristmill keys add NAME`"),
        (("outcomes", "nowhere.csv"), "nowhere.csv cannot be read"),
        (("keys", "revoke", "nobody"), "There is no valid key 'nobody'"),
        (("keys", "add", "no name"), "cannot be called 'no name'"),
        (("connect", "nobody"), "nobody"),
        (("psql", "nobody"), "nobody"),
        (("bundle", str(Path(__file__).parent)), str(Path(__file__).parent)),
        (("sample", str(Path(__file__).parent)), "exists already"),
        (("init", "elsewhere"), "gristmill.toml"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_exit_1(type_in, arguments, message):
    said = type_in(*arguments)

    assert said.code == 1
    assert said.err.startswith("gristmill: ")
    assert message in said.err
    assert said.err.count("gristmill: ") == 1
    assert "Traceback" not in said.err
    assert "an error of its own" not in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("load", "--nonsense"),
        ("load", "--period", "2025-10", "--from", "2025-10"),
        ("show",),
        ("show", "monthly_sales", "--limit", "0"),
        ("diff",),
        ("undo",),
        ("promote",),
        ("trace",),
        ("predict",),
        ("bundle",),
        ("outcomes",),
        ("keys",),
        ("keys", "add"),
        ("keys", "list", "crm"),
        ("keys", "show", "crm"),
        ("status", "everything"),
        ("sample", "somewhere", "--customers", "0"),
        ("sample", "somewhere", "--labels", "wishes"),
        ("serve", "--port", "70000"),
        ("mlflow", "--port", "0"),
        ("up", "--port", "many"),
    ],
)
def test_wrong_usage_is_exit_2(type_in, arguments):
    said = type_in(*arguments)

    assert (said.code, said.out) == (2, "")
    assert "Usage: " in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no project file"),
        ("[project", "gristmill.toml"),
        ('[project]\nname = "a"\nsource = "b"\n[tables.t]\npath = "t.csv"\ncolums = {}', "colums"),
    ],
)
def test_a_project_that_cannot_be_read_is_one_message(type_in, tmp_path, content, message):
    if content is not None:
        (tmp_path / "gristmill.toml").write_text(content)
    said = type_in("check", project=tmp_path / "gristmill.toml")

    assert said.code == 1
    assert said.err.startswith("gristmill: ")
    assert message in said.err
    assert "Traceback" not in said.err


def test_a_bucket_that_is_not_there_is_one_message(type_in, monkeypatch):
    monkeypatch.setenv("GRISTMILL_SOURCE", "/nowhere/at/all")

    said = type_in("load")
    assert said.code == 1
    assert said.err.startswith("gristmill: ")
    assert "/nowhere/at/all" in said.err

    checked = type_in("check")
    assert checked.code == 1
    assert checked.out.count("wrong ") == 5
    standing = type_in("status")
    assert standing.code == 0
    assert "unknown" in standing.out
    assert "/nowhere/at/all" in standing.err


def test_a_database_that_does_not_answer_is_one_message_without_the_password(type_in, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://admin:s3cret@127.0.0.1:{taken.getsockname()[1]}/companydata"
        monkeypatch.setenv("GRISTMILL_DATABASE_URL", url)
        for command in ("load", "status", "models"):
            said = type_in(command)
            assert said.code == 1
            assert said.err.startswith("gristmill: The database does not answer")
            assert "s3cret" not in said.err + said.out


def test_version_and_help(type_in):
    assert type_in("--version").out == f"gristmill {__version__}\n"
    help_text = type_in("--help").out
    for command in [one.name or one.callback.__name__ for one in cli.app.registered_commands]:
        assert f" {command} " in help_text
        assert type_in(command, "--help").code == 0


def test_check_finds_nothing_wrong(type_in):
    said = type_in("check")
    assert (said.code, said.err) == (0, "")
    assert "tables.sales: 3 periods, 2025-10 to 2025-12" in said.out
    assert {one["level"] for one in type_in("check", "--json").json} == {"ok"}


def test_a_second_time_nothing_is_done(type_in):
    loaded = type_in("load")
    assert (loaded.code, loaded.err) == (0, "")
    assert loaded.out.splitlines() == [
        f"{table}: unchanged"
        for table in ("customer_profiles", "customer_activity", "labels", "stores", "sales")
    ]
    built = type_in("build")
    assert all(": unchanged" in line for line in built.out.splitlines())
    assert "model: unchanged, version 1" in type_in("run").out


def test_load_of_some_periods(type_in):
    said = type_in("load", "sales", "--from", MONTHS[1], "--to", MONTHS[2], "--again")
    assert said.code == 0
    assert ", 2 periods" in said.out
    assert ", 1 period" in type_in("load", "--period", MONTHS[0], "--again").out


def test_status_as_people_and_programs_read_it(type_in):
    said = type_in("status")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].split()[:3] == ["table", "period", "state"]
    assert "champion: 1" in said.out

    found = type_in("status", "--json").json
    assert [one["period"] for one in found["periods"] if one["table"] == "sales"] == [*MONTHS]
    assert {one["state"] for one in found["periods"]} == {"loaded"}
    assert found["champion"] == "1"


def test_show_as_people_and_programs_read_it(type_in):
    rows = type_in("show", "monthly_sales", "--json").json
    said = type_in("show", "monthly_sales", "--limit", "2")
    assert said.code == 0
    assert len(said.out.splitlines()) == 1 + 2
    assert said.out.splitlines()[0].split() == list(rows[0])
    assert {row["sale_month"][:7] for row in rows} == set(MONTHS)


def test_a_refused_row_is_shown_until_its_file_is_mended(type_in, labels):
    assert type_in("rejects").out == "No rows were refused.\n"
    lines = labels.read_text().splitlines()
    first, rest = lines[1], lines[2:]
    bad = f'{first.split(",")[0]},"two\nlines"'
    labels.write_text("\n".join([lines[0], bad, *rest]) + "\n")

    loaded = type_in("load")
    assert loaded.code == 0
    assert "1 rejected (`gristmill rejects labels`)" in loaded.out

    said = type_in("rejects", "labels")
    assert "labels.csv" in said.out
    header, row = csv.reader(io.StringIO(type_in("rejects", "--csv").out, newline=""))
    found = dict(zip(header, row, strict=True))
    assert (found["rule"], found["line"], found["raw"]) == ("type", "2", bad)
    assert type_in("rejects", "--json").json[0]["raw"] == bad

    labels.write_text("\n".join(lines) + "\n")
    assert type_in("load").code == 0
    assert type_in("rejects").out == "No rows were refused.\n"


def test_a_refused_file_is_exit_1_and_changes_nothing(type_in, labels):
    labels.write_text("idx,label\n" + "".join(f"{n},7\n" for n in range(5)))

    said = type_in("load")

    assert said.code == 1
    assert said.err.startswith("gristmill: labels.csv was refused: 5 of 5 rows")
    assert "labels.csv, line 2: in: " in said.err
    assert "sales: unchanged" in said.out  # the others are looked at all the same
    assert type_in("load").code == 1
    found = {one["table"]: one for one in type_in("status", "--json").json["periods"]}
    assert found["labels"]["state"] == "refused"
    assert found["labels"]["rows"] > 5
    assert "refused" in type_in("rejects", "labels").out


def test_diff_and_undo_of_a_changed_file(type_in, labels):
    assert type_in("build").code == 0
    lines = labels.read_text().splitlines()
    entity, label = lines[1].split(",")
    changed = f"{entity},{1 - int(label)}"
    labels.write_text("\n".join([lines[0], changed, *lines[3:], "0,2"]) + "\n")
    assert type_in("load", "labels").code == 0
    assert [one["raw"] for one in type_in("rejects", "--json").json] == ["0,2"]

    (found,) = type_in("diff", "labels", "--json").json
    assert (found["added"], found["removed"], found["changed"]) == (0, 1, 1)
    assert {one["name"] for one in found["used_by"]} == {"feature_store", "training_set"}
    said = type_in("diff", "labels")
    assert f"changed  line 2: idx={entity}, label={label} → {1 - int(label)}" in said.out
    assert "training_set (build " in said.out

    undone = type_in("undo", "labels")
    assert undone.code == 0
    assert f"load {found['new']} is undone; load {found['old']} is shown again" in undone.out
    assert type_in("rejects").out == "No rows were refused.\n"
    assert "labels: unchanged" in type_in("load", "labels").out
    states = {one["table"]: one["state"] for one in type_in("status", "--json").json["periods"]}
    assert states["labels"] == "undone"
    assert "labels: loaded" in type_in("load", "labels", "--again").out


def test_diff_of_what_was_loaded_once(type_in):
    assert type_in("diff", "stores").out == (
        "Every load is the first one of its period that is kept.\n"
    )
    assert type_in("diff", "stores", "--json").json == []


@pytest.fixture
def tracking(type_in):
    """MLflow's own client, as somebody uses it beside us."""
    url = tracking_url(type_in("connect").out.strip())
    return MlflowClient(tracking_uri=url, registry_uri=url)


@pytest.mark.filterwarnings("ignore")  # MLflow's own, which a person does not see
def test_models_and_their_promotion(type_in):
    said = type_in("models")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0].split()[:3] == ["version", "champion", "verdict"]
    assert all(len(line.rstrip()) <= 80 for line in said.out.splitlines())
    (version,) = type_in("models", "--json").json
    assert (version["version"], version["champion"]) == ("1", "now")
    assert (version["metric"], version["problems"]) == ("roc_auc", [])
    assert type_in("promote", "1", "--force").out == "Version 1 is the champion.\n"


@pytest.mark.filterwarnings("ignore")
def test_everything_of_one_version(type_in, tracking):
    found = type_in("models", "1", "--json").json
    user = pwd.getpwuid(os.geteuid()).pw_name
    (tenure,) = found["tenures"]
    assert (tenure["by"], tenure["why"], tenure["until"]) == (user, "for the tests", None)
    assert (tenure["os_user"], tenure["database_user"]) == (user, "admin")
    assert {load["table_name"] for load in found["loads"]} == {
        "customer_profiles", "customer_activity", "labels",
    }  # fmt: skip
    assert found["lineage"]["libraries"]["scikit-learn"] == metadata.version("scikit-learn")
    lineage = Path(tracking.download_artifacts(found["run_id"], "lineage.json")).read_text()
    assert json.loads(lineage)["loads"] == found["loads"]
    with psycopg.connect(type_in("connect").out.strip()) as connection:
        etags = dict(connection.execute("SELECT load, etag FROM gristmill.loads").fetchall())
    assert {load["load"]: load["etag"] for load in found["loads"]}.items() <= etags.items()
    log = Path(tracking.download_artifacts(found["run_id"], "training.log")).read_text()
    assert f"verdict: {found['verdict']}" in log

    said = type_in("models", "1")
    assert (said.code, said.err) == (0, "")
    for known in (f"by {user}", "for the tests", "roc_auc", "labels.csv", found["run_id"],
                  found["bundle_digest"], f"verdict: {found['verdict']}"):  # fmt: skip
        assert known in said.out


@pytest.mark.filterwarnings("ignore")
def test_what_somebody_deletes_in_mlflow_is_told_and_the_alias_mended(type_in, tracking):
    tracking.delete_model_version("clients", "1")
    for command in ("status", "check"):
        said = type_in(command)
        assert said.code == 0
        assert "alias 'champion' does not point at the champion" in said.out + said.err

    assert (type_in("models").code, type_in("status").err) == (0, "")
    run_id = type_in("models", "1", "--json").json["run_id"]
    assert tracking.get_model_version_by_alias("clients", "champion").run_id == run_id

    tracking.delete_run(run_id)
    for command in (("status",), ("check",), ("models",), ("models", "1")):
        said = type_in(*command)
        assert said.code == 0
        assert run_id in said.out + said.err
        assert "was deleted there" in " ".join((said.out + said.err).split())
    tracking.restore_run(run_id)
    assert type_in("status").err == ""


def test_a_champion_without_its_bundle_is_wrong(type_in):
    bundle = Path(type_in("models", "1", "--json").json["bundle"])
    aside = bundle.with_name("aside")
    bundle.rename(aside)
    try:
        said = type_in("check")
        assert said.code == 1
        assert "wrong   models.1: the bundle is not what was registered" in said.out
        assert "There is no bundle" in type_in("status").err
        assert "There is no bundle" in type_in("models", "--json").json[0]["problems"][0]
        refused = type_in("predict", "100000")
        assert (refused.code, "There is no bundle" in refused.err) == (1, True)
    finally:
        aside.rename(bundle)
    assert type_in("check").code == 0


def test_predict_answers_and_puts_on_record(type_in, installation):
    said = type_in("predict", "100000", "100001", "--json")
    assert said.code == 0
    first, second = said.json
    assert (first["entity"], second["entity"]) == ("100000", "100001")
    with psycopg.connect(type_in("connect").out.strip()) as connection:
        found = connection.execute(
            "SELECT entity, probability FROM gristmill.predictions WHERE prediction_id = %s",
            [first["prediction_id"]],
        ).fetchone()
    assert found == ("100000", first["probability"])
    assert first["prediction_id"] not in type_in("predict", "100000").out


def test_outcomes_of_a_file_are_recorded_once(type_in, tmp_path):
    file = tmp_path / "outcomes.csv"
    file.write_text("idx,outcome,observed_at\n100000,1,2026-01-31\n100001,0,2026-01-31\n")
    assert type_in("outcomes", str(file)).out.startswith("2 outcomes are new")
    assert "2 were known" in type_in("outcomes", str(file)).out
    file.write_text("idx,outcome,observed_at\n100000,2,2026-01-31\n")
    refused = type_in("outcomes", str(file))
    assert (refused.code, "line 2: outcome must be 0 or 1" in refused.err) == (1, True)


def test_a_key_is_shown_once_and_listed_by_its_name(type_in, installation):
    made = type_in("keys", "add", "crm")
    assert (made.code, made.out.count("\n")) == (0, 1)
    key = made.out.strip()
    assert key.startswith("gristmill_")
    listed = type_in("keys", "list")
    assert "crm" in listed.out
    assert key not in listed.out
    assert type_in("keys", "revoke", "crm").code == 0
    assert type_in("keys", "revoke", "crm").code == 1


def test_a_bundle_is_written_once(type_in, tmp_path):
    folder = tmp_path / "bundle"
    assert type_in("bundle", str(folder)).out == f"Version 1 is in {folder}.\n"
    assert (folder / "manifest.json").is_file()
    again = type_in("bundle", str(folder))
    assert again.code == 1
    assert str(folder) in again.err


def test_connect_gives_each_user_their_own(type_in):
    owner = conninfo_to_dict(type_in("connect").out.strip())
    reader = conninfo_to_dict(type_in("connect", "ds_user").out.strip())
    assert (owner["user"], reader["user"]) == ("admin", "ds_user")
    assert owner["password"] != reader["password"]


def test_a_taken_port_is_one_message(type_in):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = type_in("serve", "--port", str(taken.getsockname()[1]))
    assert said.code == 1
    assert said.err.startswith("gristmill: ")
    assert "port" in said.err.lower()


def test_a_sample_is_written_over_nothing(type_in, tmp_path):
    folder = tmp_path / "sample"
    said = type_in("sample", str(folder), "--customers", "5", "--months", "1", "--seed", "1")
    assert said.code == 0
    assert "customer_profiles 5" in said.out
    assert type_in("sample", str(folder)).code == 1


def test_a_project_is_drafted_and_loads(type_in, bucket, tmp_path, monkeypatch):
    monkeypatch.delenv("GRISTMILL_SOURCE")
    drafted = tmp_path / "drafted"
    drafted.mkdir()
    said = type_in("init", str(bucket), project=drafted / "gristmill.toml")
    assert said.code == 0
    assert "is written" in said.out
    assert type_in("init", str(bucket), project=drafted / "gristmill.toml").code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "where"),
    [
        (
            ("psql", "ds_user", "--", "-Atc", "SELECT count(*) FROM labels WHERE label > 1"),
            0,
            "0\n",
        ),
        (("psql", "--", "-Atc", "SELECT current_user"), 0, "admin\n"),
        (("show", "labels"), 1, ""),
        (("load", "--nonsense"), 2, ""),
    ],
)
def test_as_a_process_of_its_own(installation, arguments, code, where):
    done = subprocess.run(
        installation.command(*arguments), env=installation.variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (code, where)
    assert "Traceback" not in done.stderr


def test_what_nobody_reads_any_more_is_no_error_of_ours(installation):
    command = subprocess.Popen(
        installation.command("status"), env=installation.variables,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    command.stdout.close()
    _, errors = command.communicate()
    assert "Traceback" not in errors
    assert "an error of its own" not in errors
