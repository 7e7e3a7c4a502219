"""A project's workflows as Airflow DAGs: `dags/gristmill_dags.py` beside the project file calls it.

Reads the project file and nothing else, no database and no bucket; each task is a command of the
product's own environment. Runs in Airflow's environment, where little else of Gristmill works.
"""

# mypy: disable-error-code="import-not-found, untyped-decorator"
# Airflow is not where types are checked: it has an environment of its own.

from __future__ import annotations

import json
import shlex
import subprocess
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    CronDataIntervalTimetable,
    Param,
    chain,
    task,
)
from airflow.sdk.exceptions import AirflowException

from gristmill.orchestration.tasks import Graph, graphs, starts
from gristmill.project.read import DEFAULT_FILE, read_project
from gristmill.project.table import ALL
from gristmill.settings import read_settings

if TYPE_CHECKING:
    from gristmill.orchestration.tasks import Task

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""Airflow runs nothing of before a DAG's start; how far the past goes back, the bucket knows."""
RETRIES = 3
"""How often a task that failed or was killed is tried again; Airflow's setting says how soon."""
AT_ONCE = 4
"""How many periods are loaded at once; another run of any other workflow waits for the first."""
PERIOD_PATTERNS = {"day": r"\d{4}-\d{2}-\d{2}", "month": r"\d{4}-\d{2}", "year": r"\d{4}"}
PERIOD_FORMATS = {"day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
ONE_PERIOD = f"""case "$PERIOD" in
  {ALL}) exec {{command}} ;;
  ?*) exec {{command}} --period "$PERIOD" ;;
  *) echo "This run is of no {{every}}: start it with the parameter {{every}}, or {ALL}." >&2
     exit 1 ;;
esac"""


def make_dags(dag_file: str) -> dict[str, DAG]:
    """The DAGs of the project whose `dags` folder holds a file, by name. Raises ProjectError."""
    root = Path(dag_file).resolve().parents[1]
    project = read_project(root)
    made = graphs(project)
    program = [read_settings(root).command, "--project", str(root / DEFAULT_FILE)]
    return {
        graph.name: _noticing(graph, made, program, project.name)
        if graph.notices
        else _dag(graph, program, project.name)
        for graph in made
    }


def _dag(graph: Graph, program: list[str], project: str) -> DAG:
    """A task for each step; the last one tells the workflows behind it, also if it was skipped."""
    told = [Asset(graph.name)] if graph.is_awaited else []
    with _empty_dag(graph, project) as dag:
        steps = [_step(one, graph, program) for one in graph.tasks]
        if told and any(one.may_skip for one in graph.tasks):
            steps.append(EmptyOperator(task_id="done", trigger_rule="none_failed"))
        steps[-1].add_outlets(told)
        chain(*steps)
    return dag


def _empty_dag(graph: Graph, project: str) -> DAG:
    parameters = {}
    if graph.period:
        parameters[graph.period] = Param(
            None,
            type=["null", "string"],
            pattern=f"^({PERIOD_PATTERNS[graph.period]}|{ALL})$",
            description=f"The {graph.period} to load, or `{ALL}` for whatever waits to be loaded.",
        )
    return DAG(
        dag_id=graph.name,
        schedule=_schedule(graph),
        start_date=EPOCH,
        catchup=False,
        is_paused_upon_creation=False,
        max_active_runs=AT_ONCE if graph.period else 1,
        params=parameters,
        default_args={"retries": RETRIES, "owner": project},
        tags=[project],
        doc_md="\n".join(f"    gristmill {shlex.join(one.words)}" for one in graph.tasks),
    )


def _schedule(graph: Graph) -> Any:
    """Any of the workflows before it, or a time: the end of an interval, whose start names it."""
    assets = [Asset(name) for name in graph.after]
    times = CronDataIntervalTimetable(graph.schedule, timezone="UTC") if graph.schedule else None
    if times and assets:
        return AssetOrTimeSchedule(timetable=times, assets=reduce(or_, assets))
    if len(assets) > 1:
        return reduce(or_, assets)
    return assets or times


def _step(one: Task, graph: Graph, program: list[str]) -> BashOperator:
    command = shlex.join([*program, *one.words])
    loads_period = graph.period is not None and one.words[0] == "load"
    return BashOperator(
        task_id=one.name,
        bash_command=ONE_PERIOD.format(command=command, every=graph.period)
        if loads_period
        else f"exec {command}",
        # By way of the environment: what somebody types into a form is no part of a shell's text.
        env={"PERIOD": _period_of_run(graph.period)} if graph.period and loads_period else None,
        append_env=True,
        do_xcom_push=False,
        trigger_rule="none_failed",
    )


def _period_of_run(every: str) -> str:
    """A template of the period that a run is asked to load, or in which its interval begins."""
    begin = "data_interval_start"
    named = f"{begin}.strftime('{PERIOD_FORMATS[every]}') if {begin} is defined and {begin} else ''"
    return f"{{{{ params.{every} or ({named}) }}}}"


def _noticing(graph: Graph, made: list[Graph], program: list[str], project: str) -> DAG:
    """Starts a run for each period whose file waits to be loaded, once a day for the same file."""
    with _empty_dag(graph, project) as dag:

        @task
        def look() -> list[dict[str, Any]]:
            found = _pending([*program, "pending", "--json"])
            return [
                {
                    "trigger_dag_id": one.workflow,
                    "trigger_run_id": one.run,
                    "conf": dict(one.parameters),
                }
                for one in starts(found["files"], made, datetime.now(UTC).date())
            ]

        TriggerDagRunOperator.partial(
            task_id="start",
            logical_date=None,
            skip_when_already_exists=True,
            map_index_template="{{ task.trigger_run_id }}",
        ).expand_kwargs(look())
    return dag


def _pending(command: list[str]) -> dict[str, Any]:
    """What `gristmill pending` found; also told to the log."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise AirflowException(f"{shlex.join(command)} failed with exit code {done.returncode}.")
    found: dict[str, Any] = json.loads(done.stdout)
    for file in found["files"]:
        print(f"{file['file']} is to be loaded")
    for line in [*found["lacking"], *found["vanished"]]:
        print(line)
    return found
