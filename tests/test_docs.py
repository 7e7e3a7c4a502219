"""The documentation is true: its commands, settings, keys, types, rules and snippets are real."""

import ast
import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pytest
import typer

from gristmill import cli
from gristmill.flow.status import State
from gristmill.loading.values import typed
from gristmill.project import read
from gristmill.project.read import read_project
from gristmill.settings import AmazonSettings, Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])
COMMANDS = typer.main.get_command(cli.app).commands
OTHER_PROGRAMS = {
    *(
        "aws",
        "cd",
        "curl",
        "docker",
        "export",
        "gh",
        "git",
        "mv",
        "pip",
        "printf",
        "psql",
        "python",
    ),
    *("scp", "ssh", "ssh-keygen", "sudo", "terraform", "tr", "uvicorn"),
}
"""What a snippet may call beside gristmill, make and the scripts of deploy/."""


def named(path):
    return str(path.relative_to(ROOT))


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def snippets(*languages):
    """Every fenced block in one of the languages: page and line, and the text."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 1
            if match[1] in languages:
                found.append(pytest.param(match[2], id=f"{named(page)}:{line}"))
    return found


def tables(text):
    """Every Markdown table: the heading above it, its header's cells, its rows' cells."""
    found, heading, rows = [], "", []
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif rows:
            found.append((heading, rows[0], rows[2:]))
            rows = []
    return found


def codes(cell):
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def table_of(page, heading, first="key"):
    """The rows of the one table under a heading whose header begins so."""
    matching = [
        rows
        for above, header, rows in tables(text_of(page))
        if above == heading and header[0] == first
    ]
    assert len(matching) == 1, (page, heading, first)
    return matching[0]


# Commands


def usage_documented():
    """Command → the rest of its line in docs/commands.md."""
    rows = table_of("docs/commands.md", "Commands", "command")
    return dict(codes(row[0])[0].partition(" ")[::2] for row in rows)


def options_of(command):
    return {
        opt
        for param in command.params
        if param.param_type_name == "option"
        for opt in param.opts
        if opt.startswith("--")
    } - {"--help"}


def test_the_commands_documented_are_those_that_there_are():
    assert set(usage_documented()) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_commands_options_are_documented(name):
    documented = set(re.findall(r"--[a-z][a-z-]*", usage_documented()[name]))
    assert documented == options_of(COMMANDS[name]) - {"--json"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_commands_arguments_are_documented(name):
    without_options = re.sub(r"\[--[a-z][^\]]*\]", "", usage_documented()[name])
    without_options = without_options.replace("-- ", "")  # psql hands on what stands behind it
    documented = [
        (not word.startswith("["), "…" in word)
        for word in re.findall(r"\[?[A-Z]+…?\]?", without_options)
    ]
    arguments = [one for one in COMMANDS[name].params if one.param_type_name == "argument"]
    assert documented == [(one.required, one.nargs == -1) for one in arguments]


def test_the_commands_that_print_json_are_named():
    text = text_of("docs/commands.md")
    sentence = re.search(r"([^.]*) take `--json`", text)
    assert sentence is not None
    having = {name for name, command in COMMANDS.items() if "--json" in options_of(command)}
    assert set(codes(sentence[1])) == having


def test_the_options_before_the_command_are_documented():
    paragraph = text_of("docs/commands.md").split("\n\n")[1]
    documented = set(re.findall(r"--[a-z]+", paragraph)) - {"--json", "--help"}
    assert documented == options_of(typer.main.get_command(cli.app))


def test_status_documents_its_states():
    usage = next(
        row for row in table_of("docs/commands.md", "Commands", "command") if row[0] == "`status`"
    )
    assert [state for state in get_args(State) if state not in usage[1]] == []


# Settings


def test_the_settings_documented_are_those_that_there_are():
    rows = table_of("docs/commands.md", "Settings", "variable")
    documented = [variable for row in rows for variable in codes(row[0])]
    real = [
        field.validation_alias or f"GRISTMILL_{name.upper()}"
        for name, field in Settings.model_fields.items()
    ]
    real += [name.upper() for name in AmazonSettings.model_fields]
    assert sorted(documented) == sorted(real)


def test_every_setting_named_anywhere_is_real():
    rows = table_of("docs/commands.md", "Settings", "variable")
    real = {variable for row in rows for variable in codes(row[0])}
    for page in PAGES:
        found = set(re.findall(r"\bGRISTMILL_[A-Z_]+\b", page.read_text(encoding="utf-8")))
        assert found <= real, page


def test_the_variables_of_the_infrastructure_are_documented():
    rows = table_of("docs/deploy-aws.md", "1. The infrastructure", "variable")
    real = re.findall(r'^variable "(\w+)"', text_of("deploy/terraform/variables.tf"), re.MULTILINE)
    assert sorted(codes(row[0])[0] for row in rows) == sorted(real)


# The project file


def keys(section):
    return [field.alias or name for name, field in section.model_fields.items()]


SECTIONS = {
    "`[project]`": keys(read._ProjectSection),
    "`[tables.NAME]`": keys(read._TableSection),
    "`[derived.NAME]`": keys(read._DerivedSection),
    "`[features]`": keys(read._FeaturesSection),
    "`[model]`": [
        *(key for key in keys(read._ModelSection) if key != "gate"),
        *(f"gate.{key}" for key in keys(read._GateSection)),
    ],
    "`[serving]`": keys(read._ServingSection),
    "`[database]`": [
        *(key for key in keys(read._DatabaseSection) if key != "users"),
        *(f"users.NAME.{key}" for key in keys(read._UserSection)),
    ],
    "`[workflows]`": keys(read._WorkflowSection),
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_sections_keys_are_documented(heading):
    documented = [codes(row[0])[0] for row in table_of("docs/project-file.md", heading)]
    assert sorted(documented) == sorted(SECTIONS[heading])


def test_every_section_is_documented():
    headings = re.findall(r"^## `\[(\w+)", text_of("docs/project-file.md"), re.MULTILINE)
    assert sorted(headings) == sorted(keys(read._File))


def test_the_keys_of_a_dialect_and_of_a_period_are_documented():
    page = "docs/project-file.md"
    dialect = table_of(page, "How a CSV is read", "key of `csv`")
    period = table_of(page, "Families of files: `period`", "key of `period`")
    assert sorted(codes(row[0])[0] for row in dialect) == sorted(keys(read._CsvSection))
    assert sorted(codes(row[0])[0] for row in period) == sorted(keys(read._PeriodSection))


def documented_types():
    return [
        pytest.param(codes(row[0])[0], row[2], row[3], id=codes(row[0])[0])
        for row in table_of("docs/project-file.md", "Columns and types", "type")
    ]


@pytest.mark.parametrize(("declared", "accepted", "refused"), documented_types())
def test_the_examples_of_a_type_are_taken_and_refused_as_documented(declared, accepted, refused):
    column = read._column("value", read._ColumnSection(type=declared))
    assert column is not None
    texts = [*codes(accepted), *codes(refused)]
    _, wrong = typed(pa.array(texts, pa.string()), column)
    assert [text for text, bad in zip(texts, wrong, strict=True) if bad] == codes(refused)


def test_every_type_is_documented():
    names = {codes(row[0])[0].split("(")[0] for row in
             table_of("docs/project-file.md", "Columns and types", "type")}  # fmt: skip
    assert names == set(get_args(read.ColumnType))


def rules_in_the_code():
    """The names of rules that the loading room gives to rejects, read from its source."""
    found = set()
    for path in (ROOT / "src/gristmill/loading").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(keywords=keywords):
                    found |= {
                        one.value.value
                        for one in keywords
                        if one.arg == "rule" and isinstance(one.value, ast.Constant)
                    }
            match node:
                case (
                    ast.Call(
                        func=ast.Attribute(value=ast.Name(id="problems"), attr="add"),
                        args=[ast.Constant(value=str(rule)), *_],
                    )
                    | ast.Yield(value=ast.Tuple(elts=[ast.Constant(value=str(rule)), _, _]))
                ):
                    found.add(rule)
                case ast.Constant(value=str(text)):
                    found |= set(re.findall(r"'(\w+)'(?: ELSE '\w+' END)? AS rule", text))
                    found |= set(re.findall(r"'(\w+)' END AS rule", text))
                    found |= set(re.findall(r"THEN '(\w+)' ELSE '\w+' END AS rule", text))
    return found


def test_the_rules_documented_are_those_of_the_code():
    rows = table_of("docs/project-file.md", "Rules", "rule")
    assert {codes(row[0])[0] for row in rows} == rules_in_the_code()


# Snippets

BASE = """
[project]
name = "shop"
source = "bucket"
[tables.customers]
path = "customers.csv"
key = ["customer_id"]
columns = { customer_id = "integer", country = "text?" }
[tables.activity]
path = "activity.csv"
key = ["customer_id", "valid_from"]
valid = ["valid_from", "valid_to"]
columns = { customer_id = "integer", valid_from = "date", valid_to = "date?", visits = "integer" }
[tables.labels]
path = "labels.csv"
key = ["customer_id"]
columns = { customer_id = "integer", observed_on = "date", bought = "integer" }
[tables.stores]
path = "stores.csv"
key = ["idx"]
columns = { idx = "integer" }
[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month" }
columns = { store_idx = "integer", date = "date", value = "number" }
[tables.orders]
path = "orders.csv"
columns = { order_id = "integer" }
[derived.monthly_sales]
sql = "monthly_sales.sql"
from = ["sales"]
[features]
entity = "customers.customer_id"
features = ["customers.country"]
label = "labels.bought"
"""


def merged(base, changes):
    """The base with a snippet's sections over it."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    joined = dict(base)
    for key, value in changes.items():
        joined[key] = merged(base[key], value) if key in base else value
    return joined


def inline(value):
    """A value as TOML writes it in a line."""
    if isinstance(value, dict):
        pairs = [f"{json.dumps(key)} = {inline(one)}" for key, one in value.items()]
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


def spliced(snippet):
    """A project of which the snippet is the whole or a part; a path without a period has none."""
    written = tomllib.loads(snippet)
    if "project" in written:
        return written
    whole = merged(tomllib.loads(BASE), written)
    for table in whole["tables"].values():
        if "{period" not in table["path"]:
            table.pop("period", None)
    return whole


@pytest.mark.parametrize("snippet", snippets("toml"))
def test_a_snippet_of_toml_is_a_project_or_fits_into_one(snippet, tmp_path):
    project = spliced(snippet)
    for derived in project.get("derived", {}).values():
        file = tmp_path / derived["sql"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("SELECT 1 AS one")
    lines = [f"{key} = {inline(value)}" for key, value in project.items()]
    (tmp_path / "gristmill.toml").write_text("\n".join(lines))
    assert read_project(tmp_path).tables


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*/gristmill.toml")), ids=named)
def test_an_example_is_a_project(example):
    assert read_project(example).model is not None


def calls(snippet):
    """The command lines of a snippet: those after a prompt, or all where there is none."""
    joined = re.sub(r"\\\n\s*", " ", snippet)
    lines = [line for line in joined.splitlines() if line.strip()]
    prompted = [line[2:] for line in lines if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in prompted or lines]


def make_targets():
    return set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))


def wrong_with(words):
    """What is wrong with a command line; None where nothing is."""
    program, *rest = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if program == "make":
        return next((word for word in rest if word not in make_targets()), None)
    if program.startswith("deploy/"):
        return None if os.access(ROOT / program, os.X_OK) else f"there is no {program}"
    if program != "gristmill":
        return None if program in OTHER_PROGRAMS else f"{program} is not known here"
    while rest and rest[0].startswith("-"):
        rest = rest[2:] if rest[0] == "--project" else rest[1:]
    if not rest:
        return None
    name, *given = rest
    if name not in COMMANDS:
        return f"there is no command {name!r}"
    given = given[: given.index("--")] if "--" in given else given
    known = options_of(COMMANDS[name]) | {"--help"}
    return next((word for word in given if word.startswith("--") and word not in known), None)


@pytest.mark.parametrize("snippet", snippets("console", "sh", "bash"))
def test_a_snippet_calls_what_there_is(snippet):
    found = calls(snippet)
    assert found
    assert [problem for words in found if words and (problem := wrong_with(words))] == []


def commands_in_prose():
    """Commands between backticks, in the documentation and in the product's own messages."""
    sources = [*PAGES, *sorted(ROOT.glob("src/gristmill/**/*.py"))]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for command in sorted(set(re.findall(r"`((?:gristmill|make) [^`{]+)`", text))):
            yield pytest.param(command, id=f"{named(path)}: {command}")


@pytest.mark.parametrize("command", list(commands_in_prose()))
def test_a_command_in_prose_exists(command):
    words = [word for word in shlex.split(command) if "…" not in word]
    assert wrong_with(words) is None


# The database


def test_the_columns_that_people_may_count_on_exist():
    migrations = "".join(
        path.read_text(encoding="utf-8")
        for path in sorted(ROOT.glob("src/gristmill/warehouse/migrations/*.sql"))
    )
    rows = table_of("docs/how-it-works.md", "What is where in the database", "table")
    for table, _, columns in rows:
        name = codes(table)[0]
        body = re.search(rf"CREATE TABLE gristmill\.{name} \((.*?)^\);", migrations, re.M | re.S)
        assert body is not None, name
        real = set(re.findall(r"^    ([a-z_]+) +[a-z]", body[1], re.MULTILINE))
        assert set(columns.split(", ")) <= real, name


# Links and paths


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        address, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", address):
            continue
        there = (page.parent / address) if address else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            dead.append(target)
    assert dead == []


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "Makefile", *sorted(ROOT.glob("src/**/*.py"))], ids=named
)
def test_no_page_names_a_place_on_somebodys_machine(page):
    text = page.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert re.findall(r"/(?:home|Users|work)/\w+", text) == []
