"""One command per step. It parses, calls and prints; it computes nothing."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gristmill import __version__
from gristmill.bucket.sample import write_sample
from gristmill.console import terminal
from gristmill.console.differences import print_difference
from gristmill.console.models import print_versions, version_lines
from gristmill.console.rejects import REJECT_COLUMNS, print_rejects
from gristmill.console.trace import trace_lines
from gristmill.errors import GristmillError
from gristmill.flow import steps
from gristmill.flow.champion import export_champion, serve_champion
from gristmill.flow.champion import predict as predict_entities
from gristmill.flow.check import check as check_everything
from gristmill.flow.context import Context, Home, home_of, open_context
from gristmill.flow.explore import explore as explore_data
from gristmill.flow.init import draft_project
from gristmill.flow.models import list_versions, version_details
from gristmill.flow.outcomes import record_outcomes
from gristmill.flow.pending import NOTHING_TO_DO, build_if_needed, train_if_needed
from gristmill.flow.pending import pending as look_for_pending
from gristmill.flow.show import declared_table, reject_counts
from gristmill.flow.show import rejects as recorded_rejects
from gristmill.flow.show import show as show_rows
from gristmill.flow.status import status as project_status
from gristmill.flow.up import down as stop_everything
from gristmill.flow.up import up as run_everything
from gristmill.loading.difference import difference
from gristmill.loading.difference import undo as undo_load
from gristmill.loading.tables import Span
from gristmill.orchestration import standalone
from gristmill.orchestration.lines import Speaker
from gristmill.predictions.trace import parse_prediction_id
from gristmill.predictions.trace import trace as trace_prediction
from gristmill.project.read import DEFAULT_FILE, read_project
from gristmill.registry.store import operating_user
from gristmill.serving.keys import add_key, list_keys, revoke_key
from gristmill.settings import Settings, read_amazon_settings, read_settings, share_processors
from gristmill.warehouse.connect import connection_url, psql_command

if TYPE_CHECKING:
    from gristmill.project.project import Project

app = typer.Typer(
    help="Gristmill turns the files in a bucket into a prediction service you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Labels(StrEnum):
    """What the labels of a sample are."""

    signal = "signal"
    random = "random"


KeyAction = StrEnum("KeyAction", ["add", "list", "revoke"])


@dataclass(kw_only=True)
class _Options:
    """The options before the command."""

    project: Path = Path(DEFAULT_FILE)
    debug: bool = False


OPTIONS = _Options()
EXTRAS = {
    **dict.fromkeys(("mlflow", "onnx", "pandas", "scipy", "sklearn", "sqlalchemy"), "train"),
    **dict.fromkeys(
        ("anyio", "msgspec", "onnxruntime", "prometheus_client", "starlette", "uvicorn"), "serve"
    ),
}
"""The extra that brings a package which the base install does without."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IfNeeded = Annotated[
    bool, typer.Option("--if-needed", help="Exit 99 where there is nothing to do, or not yet.")
]


def _print_version(asked: bool) -> None:
    if asked:
        terminal.print_line(f"gristmill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    project: Annotated[
        Path, typer.Option(help="The project file, or its folder.", metavar="PATH")
    ] = Path(DEFAULT_FILE),
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Keep what stands before the command."""
    OPTIONS.project, OPTIONS.debug = project, debug


def _folder() -> Path:
    return OPTIONS.project if OPTIONS.project.is_dir() else OPTIONS.project.parent


def _project() -> tuple[Project, Settings]:
    settings = read_settings(_folder())
    return read_project(OPTIONS.project, source=settings.source), settings


def _open() -> Context:
    """The project, with its database running and up to date."""
    project, settings = _project()
    url = settings.database_url
    return open_context(
        project,
        home=settings.home,
        database_url=url.get_secret_value() if url else None,
        database_port=settings.database_port,
        aws=read_amazon_settings(_folder()).as_mapping(),
    )


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is new or empty.")],
    *,
    customers: Annotated[int, typer.Option(min=1, help="How many clients.")] = 100_000,
    months: Annotated[int, typer.Option(min=1, help="How many months of sales.")] = 24,
    labels: Annotated[Labels, typer.Option(help="A planted signal, or coins.")] = Labels.signal,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 42,
) -> None:
    """Write a sample bucket of the clients project."""
    written = write_sample(
        folder, customers=customers, months=months, labels=labels.value, seed=seed
    )
    rows = ", ".join(f"{table} {count:,}" for table, count in written.rows.items())
    terminal.print_line(f"{written.folder}: {rows}")
    terminal.print_line(
        f"{written.base_rate:.1%} of the labels are 1; "
        f"no model can reach an AUC above {written.attainable_auc:.3f} but by luck."
    )


@app.command()
def init(
    source: Annotated[
        str | None, typer.Argument(help="A folder, or an address such as s3://bucket.")
    ] = None,
) -> None:
    """Draft a project file from the files of a bucket; nothing is written over."""
    bucket = source or read_settings(_folder()).source
    if not bucket:
        raise typer.BadParameter("Name a folder or an address, or set GRISTMILL_SOURCE.")
    with terminal.reporting() as report:
        drafted = draft_project(
            OPTIONS.project, bucket, report,
            relative_to=Path.cwd() if source else None,
            aws=read_amazon_settings(_folder()).as_mapping(),
        )  # fmt: skip
    for path, reason in drafted.left_out:
        terminal.print_line(f"left out: {path}: {reason}")
    for doubt in drafted.doubts:
        terminal.print_line(f"unsure: {doubt.at}: {doubt.message}")
    terminal.print_line(f"{drafted.file} is written. Read it, then: gristmill check")


@app.command()
def check(*, as_json: Json = False) -> None:
    """Read the project, reach the bucket and the database, say what is wrong."""
    found = list(check_everything(_open()))
    if as_json:
        terminal.print_json(found)
    for one in found if not as_json else []:
        terminal.print_line(f"{one.level:8}{one.subject}: {one.message}")
    if any(one.level == "wrong" for one in found):
        raise typer.Exit(1)


@app.command()
def load(
    tables: Annotated[list[str] | None, typer.Argument(metavar="TABLE")] = None,
    *,
    period: Annotated[str | None, typer.Option(help="Only this period: 2020-01.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="From this period on.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Up to this period.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what is unchanged.")] = False,
) -> None:
    """Load what is new or changed; skip the rest."""
    if period and (first or last):
        raise typer.BadParameter("--period stands alone, without --from and --to.")
    span = Span(period=period, first=first, last=last)
    with terminal.reporting() as report:
        steps.load(_open(), report, tables or (), span=span, again=again)


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME")] = None,
    *,
    if_needed: IfNeeded = False,
) -> None:
    """Build derived tables, the feature store and the training set where they are stale."""
    with terminal.reporting() as report:
        if if_needed and not build_if_needed(_open(), report, names or ()):
            raise typer.Exit(NOTHING_TO_DO)
        if not if_needed:
            steps.build(_open(), report, names or ())


@app.command()
def train(*, if_needed: IfNeeded = False) -> None:
    """Train, judge, register; promote if the verdict says so."""
    with terminal.reporting() as report:
        if if_needed and not train_if_needed(_open(), report):
            raise typer.Exit(NOTHING_TO_DO)
        if not if_needed:
            steps.train(_open(), report)


@app.command()
def run() -> None:
    """Load, build, and train where the training set changed."""
    with terminal.reporting() as report:
        steps.run(_open(), report)


@app.command()
def up(
    *,
    host: Annotated[str | None, typer.Option(help="The address of the API.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Its port.")] = None,
) -> None:
    """Do the main job on this machine: database, load, build, train, serve."""
    _, settings = _project()
    with terminal.reporting() as report:
        context = _open()
        answered = run_everything(
            context, report, project_file=OPTIONS.project,
            host=host or settings.host, port=port or settings.port,
        )  # fmt: skip
    terminal.print_table(["", "seconds"], [[name, round(took, 1)] for name, took in report.seconds])
    for line in answered:
        terminal.print_line(line)


@app.command()
def explore(
    *, show_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False
) -> None:
    """Write a page that shows the data as it is, before any model."""
    with terminal.reporting() as report:
        written = explore_data(_open(), report)
    terminal.print_line(str(written))
    if show_it:
        typer.launch(written.as_uri())


@app.command()
def down() -> None:
    """Stop what was started: Airflow, the API and the embedded database."""
    home = home_of(_folder().resolve(), read_settings(_folder()).home)
    stopped = (["Airflow"] if standalone.stop(home) else []) + stop_everything(home)
    terminal.print_line(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status(*, as_json: Json = False) -> None:
    """Show table × period, builds and the champion."""
    found = project_status(_open())
    if as_json:
        terminal.print_json(found)
        return
    columns = ["table", "period", "state", "rows", "rejected", "load", "loaded_at"]
    rows = [[getattr(one, column) for column in columns] for one in found.periods]
    terminal.print_table(columns, rows)
    columns = ["name", "periods", "rows", "built_at"]
    rows = [[getattr(one, column) for column in columns] for one in found.builds]
    terminal.print_table(columns, rows, title="\nbuilds")
    terminal.print_line(f"\nchampion: {found.champion or 'none yet'}")
    for problem in found.problems:
        terminal.print_error(problem)


@app.command()
def pending(*, as_json: Json = False) -> None:
    """Show what a load would take in, and what it could not bring."""
    found = look_for_pending(_open())
    if as_json:
        terminal.print_json(found)
        return
    for one in found.files:
        terminal.print_line(f"{one.file}: {'refused before' if one.refused else 'to be loaded'}")
    for line in [*found.lacking, *found.vanished]:
        terminal.print_line(line)


@app.command()
def show(
    name: str,
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most that many rows.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Print a derived table, built first where it is stale."""
    context = _open()
    with terminal.reporting(quiet=True) as report:
        columns, rows = show_rows(context, report, name, limit=limit)
    if as_json:
        terminal.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        terminal.print_table(columns, rows)


@app.command()
def rejects(
    table: Annotated[str | None, typer.Argument()] = None,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every row, as CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Show the rows that were refused, and why: counts by rule, with examples."""
    context = _open()
    found = recorded_rejects(context, table)
    if as_json:
        terminal.print_json(found)
    elif as_csv:
        terminal.print_csv(REJECT_COLUMNS, terminal.as_rows(found, REJECT_COLUMNS))
    else:
        print_rejects(reject_counts(context, table), found)


@app.command()
def diff(
    table: str,
    *,
    period: Annotated[str | None, typer.Option(help="Only this period.")] = None,
    as_json: Json = False,
) -> None:
    """Show what changed between the current loads and those they replaced."""
    context = _open()
    found = difference(declared_table(context, table), period, context.warehouse)
    if as_json:
        terminal.print_json(found)
        return
    print_difference(found)


@app.command()
def undo(
    table: str, *, period: Annotated[str | None, typer.Option(help="Which period.")] = None
) -> None:
    """Go back to the load before the current one."""
    context = _open()
    undone, shown = undo_load(declared_table(context, table), period, context.warehouse)
    now = f"load {shown} is shown again" if shown else "nothing is shown of it now"
    terminal.print_line(f"{table}: load {undone} is undone; {now}. Its file is loaded again once")
    terminal.print_line("it changes, or with `gristmill load --again`.")


@app.command(name="models")
def list_models(
    version: Annotated[str | None, typer.Argument(metavar="N")] = None, *, as_json: Json = False
) -> None:
    """List the model versions and who was champion when, or show all of one version."""
    context = _open()
    context.registry.mend_mirror()
    if version:
        details = version_details(context, version)
        if as_json:
            terminal.print_json(details.to_dict())
        for line in version_lines(details) if not as_json else ():
            terminal.print_line(line)
        return
    found, problems = list_versions(context), context.registry.problems()
    if as_json:
        terminal.print_json(
            [{**one, "problems": [each.message for each in problems
                                  if each.version == one["version"]]} for one in found]
        )  # fmt: skip
        return
    print_versions(found, problems)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(metavar="N")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Against the verdict.")] = False,
    why: Annotated[str, typer.Option(help="The reason, for the record.")] = "by hand",
) -> None:
    """Make a version the champion."""
    steps.promote(_open(), version, by=operating_user(), why=why, force=force)
    terminal.print_line(f"Version {version} is the champion.")


@app.command()
def rollback(*, why: Annotated[str, typer.Option(help="The reason.")] = "by hand") -> None:
    """Make the champion before this one the champion again."""
    version = _open().registry.rollback(by=operating_user(), why=why)
    terminal.print_line(f"Version {version.version} is the champion again.")


@app.command()
def trace(
    prediction: Annotated[str, typer.Argument(metavar="ID")], *, as_json: Json = False
) -> None:
    """Follow a prediction back to the files and lines that it came from."""
    prediction_id = parse_prediction_id(prediction)
    context = _open()
    found = trace_prediction(
        prediction_id, project=context.project, warehouse=context.warehouse,
        bucket=context.bucket, registry=context.registry, spool=context.home.spool,
    )  # fmt: skip
    if as_json:
        terminal.print_json(found)
    for line in trace_lines(found) if not as_json else ():
        terminal.print_line(line)


@app.command()
def bundle(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Write the champion to a folder, ready to move to another machine."""
    version = export_champion(_open(), folder)
    terminal.print_line(f"Version {version} is in {folder}.")


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="The port.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many processes answer.")] = 1,
) -> None:
    """Answer over HTTP with the champion's bundle, until stopped."""
    _, settings = _project()
    serve_champion(_open(), host=host or settings.host, port=port or settings.port, workers=workers)


@app.command()
def predict(
    entities: Annotated[list[str], typer.Argument(metavar="ENTITY")], *, as_json: Json = False
) -> None:
    """Answer for entities of the feature store; the answers are logged."""
    found = predict_entities(_open(), entities)
    if as_json:
        terminal.print_json(found)
        return
    columns = ["entity", "label", "probability", "model_version", "prediction_id"]
    terminal.print_table(columns, [[getattr(one, column) for column in columns] for one in found])


@app.command()
def score(
    *, again: Annotated[bool, typer.Option("--again", help="Also what is scored already.")] = False
) -> None:
    """Answer for everyone in the feature store, into the predictions table."""
    with terminal.reporting() as report:
        steps.score(_open(), report, again=again)


@app.command()
def outcomes(file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file.")]) -> None:
    """Record what turned out to be true: the entity's key, outcome, observed_at."""
    found = record_outcomes(_open(), file)
    terminal.print_line(
        f"{found.added:,} outcomes are new, {found.corrected:,} correct what was there, "
        f"{found.known:,} were known."
    )


@app.command()
def keys(
    action: Annotated[KeyAction, typer.Argument(metavar="ACTION", help="add, list or revoke.")],
    name: Annotated[str | None, typer.Argument(help="Who uses the key.")] = None,
) -> None:
    """Make, list or revoke the API's keys; a key is shown once."""
    path = Home(path=home_of(_folder().resolve(), read_settings(_folder()).home)).keys
    if (action is KeyAction.list) == (name is not None):
        raise typer.BadParameter("`add` and `revoke` take a name, `list` takes none.")
    if name is None:
        columns = ["name", "created_at", "revoked_at"]
        terminal.print_table(
            columns, terminal.as_rows([asdict(one) for one in list_keys(path)], columns)
        )
    elif action is KeyAction.add:
        terminal.print_line(add_key(path, name))
        terminal.print_error("Keep it: it is shown this once, and only its hash is kept.")
    else:
        revoke_key(path, name)
        terminal.print_line(f"The key {name} opens nothing any more.")


@app.command()
def mlflow(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 5000,
) -> None:
    """Show the tracking server's pages on this machine, until stopped."""
    _replace_by(*_open().registry.user_interface(port=port))


@app.command()
def airflow(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]")] = None,
    *,
    host: Annotated[str | None, typer.Option(help="The address of its pages.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Their port.")] = None,
    as_json: Json = False,
) -> None:
    """Run Airflow on this machine, until stopped; what stands after -- is a command of its own."""
    _, settings = _project()
    with terminal.reporting(quiet=True) as report:
        opened = standalone.open_airflow(_open(), report, settings, host=host, port=port)
    if arguments:
        _replace_by(opened.environment.command(*arguments), opened.variables)
    with Speaker(sys.stdout, opened.log, as_json=as_json) as tell:
        standalone.run(opened, tell)


@app.command()
def connect(user: Annotated[str | None, typer.Argument()] = None) -> None:
    """Print a connection string of the database, password included."""
    context = _open()
    terminal.print_line(connection_url(context.warehouse, context.home.credentials, user))


@app.command(context_settings={"ignore_unknown_options": True})
def psql(
    user: Annotated[str | None, typer.Argument()] = None,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]")] = None,
) -> None:
    """Open a SQL shell on the database as a user; what stands after -- goes to psql."""
    passed_on = arguments or []
    if user and user.startswith("-"):
        passed_on = [user, *passed_on]
        user = None
    context = _open()
    command = psql_command(context.warehouse, context.home.credentials, user, passed_on)
    _replace_by(list(command.arguments), command.environment)


def _replace_by(arguments: list[str], environment: Any) -> NoReturn:
    """Become another program, which takes over the terminal and its signals."""
    sys.stdout.flush()
    os.execvpe(arguments[0], arguments, {**os.environ, **environment})  # noqa: S606


def main() -> None:
    """The command `gristmill`: exit 0 done, 1 refused or failed, 2 wrong usage."""
    share_processors()
    try:
        app()
    except GristmillError as error:
        if OPTIONS.debug:
            raise
        terminal.print_error(f"gristmill: {error}")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # no traceback reaches a user
        if OPTIONS.debug:
            raise
        terminal.print_error(_unexpected(error))
        sys.exit(1)


def _unexpected(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = EXTRAS.get(error.name.split(".")[0])
        if extra:
            return (
                f"gristmill: this needs the package {error.name}, which the extra {extra!r} "
                f"brings: pip install 'gristmill[{extra}]'."
            )
    return (
        f"gristmill: an error of its own: {type(error).__name__}: {error}\n"
        "Run it again with --debug, as in `gristmill --debug load`, and report what it prints."
    )
