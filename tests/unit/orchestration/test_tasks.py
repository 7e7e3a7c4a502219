"""A project's workflows as graphs of tasks, and the runs that pending files ask for."""

from datetime import date
from pathlib import Path

import pytest

from gristmill.orchestration.tasks import graphs, starts
from gristmill.project.read import read_project

EXAMPLES = Path(__file__).parents[3] / "examples"
TODAY = date(2026, 11, 23)

PROJECT = """
[project]
name = "shop"
source = "bucket"
[tables.customers]
path = "customers.csv"
columns = { idx = "integer" }
[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month" }
columns = { idx = "integer" }
[tables.visits]
path = "visits/{period:%Y-%m-%d}.csv"
period = { every = "day" }
columns = { idx = "integer" }
[workflows]
"""


@pytest.fixture
def project(tmp_path):
    """Reads a project with these workflows."""

    def read(workflows):
        (tmp_path / "gristmill.toml").write_text(PROJECT + workflows)
        return read_project(tmp_path)

    return read


def by_name(found):
    return {graph.name: graph for graph in found}


def commands(graph):
    return [" ".join(task.words) for task in graph.tasks]


def file(table, period="all", version="v1"):
    return {"table": table, "period": period, "version": version}


def test_the_clients_project_gives_the_workflows_of_the_mission():
    found = by_name(graphs(read_project(EXAMPLES / "clients")))
    assert {name: commands(graph) for name, graph in found.items()} == {
        "load_client_data": ["load customer_profiles customer_activity labels"],
        "load_sales_data": ["load stores sales"],
        "process_data": ["build --if-needed"],
        "train_model": ["train --if-needed"],
        "sales_statistics": ["show sales_statistics"],
        "notice_changes": [],
    }
    assert {name for name, graph in found.items() if graph.period} == {"load_sales_data"}
    assert {name for name, graph in found.items() if graph.notices} == {"notice_changes"}
    assert {name for name, graph in found.items() if graph.is_awaited} == {
        "load_client_data", "load_sales_data", "process_data",
    }  # fmt: skip


def test_a_project_without_workflows_has_nothing_to_run(project):
    assert graphs(project("")) == []


def test_what_nobody_loads_by_itself_is_not_looked_for(project):
    assert [one.name for one in graphs(project('by_hand = { steps = ["load"] }'))] == ["by_hand"]


def test_a_schedule_for_noticing_can_be_declared(project):
    declared = (
        'load = { steps = ["load"], schedule = "@daily" }\n'
        'look = { steps = ["notice"], schedule = "@hourly" }'
    )
    found = [(one.name, one.schedule) for one in graphs(project(declared)) if one.notices]
    assert found == [("look", "@hourly")]


@pytest.mark.parametrize(
    ("tables", "schedule", "period"),
    [
        ('["sales"]', "@monthly", "month"),
        ('["customers", "sales"]', "0 6 2 * *", "month"),
        ('["visits"]', "30 2 * * *", "day"),
        ('["sales"]', "@daily", None),
        ('["visits"]', "@hourly", None),
        ('["customers"]', "@monthly", None),
        ('["sales", "visits"]', "@monthly", None),
    ],
)
def test_a_run_loads_one_period_where_the_schedule_starts_once_in_each(
    project, tables, schedule, period
):
    declared = f'load = {{ steps = ["load"], tables = {tables}, schedule = "{schedule}" }}'
    assert by_name(graphs(project(declared)))["load"].period == period


def test_a_workflow_that_does_it_all_loads_whatever_waits(project):
    nightly = by_name(graphs(project('nightly = { steps = ["run"], schedule = "@monthly" }')))
    assert nightly["nightly"].period is None
    assert commands(nightly["nightly"]) == ["run"]
    assert starts([file("sales", "2024-03")], nightly.values(), TODAY)[0].parameters == {}


LOADERS = """
monthly = { steps = ["load"], tables = ["customers", "sales"], schedule = "@monthly" }
visits  = { steps = ["load"], tables = ["visits"], schedule = "@hourly" }
"""


def test_each_pending_period_has_a_run_and_what_is_beside_it_none_of_its_own(project):
    files = [
        file("customers"), file("sales", "2024-02"), file("sales", "2024-01"),
        file("visits", "2024-01-01"), file("visits", "2024-01-02"),
    ]  # fmt: skip
    found = starts(files, graphs(project(LOADERS)), TODAY)
    assert [(one.workflow, one.parameters) for one in found] == [
        ("monthly", {"month": "2024-01"}),
        ("monthly", {"month": "2024-02"}),
        ("visits", {}),
    ]
    assert all(one.run.endswith("__2026-11-23") for one in found)
    assert found[0].run.startswith("noticed__2024-01__")


def test_a_table_without_periods_that_waits_alone_has_a_run_for_all(project):
    found = starts([file("customers")], graphs(project(LOADERS)), TODAY)
    assert [(one.workflow, one.parameters) for one in found] == [("monthly", {"month": "all"})]


def test_the_same_files_give_the_same_run_on_the_same_day_only(project):
    made = graphs(project(LOADERS))

    def names(*files, day=TODAY):
        return [one.run for one in starts(files, made, day)]

    one, other = file("sales", "2024-01"), file("sales", "2024-02")
    assert names(one, other) == names(other, one)
    assert names(one) == names(one, other)[:1]
    assert names(one) != names(file("sales", "2024-01", version="v2"))
    assert names(one) != names(one, day=date(2026, 11, 24))


def test_of_a_long_past_the_oldest_periods_come_first(project):
    files = [file("sales", f"{year}-{month:02}") for year in range(1990, 2020) for month in (1, 12)]
    files += [file("sales", f"{year}-06") for year in range(1800, 2000)]
    found = [one.parameters["month"] for one in starts(files, graphs(project(LOADERS)), TODAY)]
    assert len(found) == 200
    assert found == sorted(one["period"] for one in files)[:200]


def test_what_no_workflow_loads_by_itself_is_left(project):
    made = graphs(project('by_hand = { steps = ["load"] }'))
    assert starts([file("sales", "2024-01")], made, TODAY) == []
