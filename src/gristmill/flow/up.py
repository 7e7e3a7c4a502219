"""The main job on this machine: everything up to an API that answers, and its end."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from gristmill.features.read import any_entity, latest
from gristmill.flow import steps
from gristmill.predictions.prediction import json_value
from gristmill.serving import background
from gristmill.serving.keys import list_keys
from gristmill.warehouse import embedded

if TYPE_CHECKING:
    from pathlib import Path

    from gristmill.flow.context import Context
    from gristmill.flow.report import Report


def up(context: Context, report: Report, *, project_file: Path, host: str, port: int) -> list[str]:
    """Load, build, train and serve what is not yet; lines that tell how to use it.

    Raises NoChampion where the verdict left nothing to serve, ServingError where the API does not
    come up; what was loaded, built and trained stays.
    """
    steps.run(context, report)
    champion = context.registry.require_champion()
    running = background.find(context.home.path)
    url = background.address(host, port)
    if running and running.url == url and background.follows(running, champion.version):
        report.done(f"API: version {champion.version} answers")
        return _how_to_use(context, url)
    if running:
        background.stop(context.home.path)
    report.begin("starting the API", 0)
    running = background.start(
        context.home.path,
        [
            sys.executable, "-m", "gristmill", "--project", str(project_file.resolve()),
            "serve", "--host", host, "--port", str(port),
        ],
        url=url,
    )  # fmt: skip
    report.done(f"API: version {champion.version} answers")
    return _how_to_use(context, running.url)


def down(home: Path) -> list[str]:
    """Stop the API and the embedded database of a home; what was running."""
    stopped = ["the API"] if background.stop(home) else []
    return [*stopped, "the database"] if embedded.stop(home) else stopped


def _how_to_use(context: Context, url: str) -> list[str]:
    features = context.project.features
    assert features is not None  # a champion was trained on them
    entity = any_entity(features, context.warehouse)
    found = latest(features, context.warehouse, entity).features
    body = json.dumps(
        {
            features.entity.column: entity,
            "features": {name: json_value(value) for name, value in found.items()},
        }
    )
    key = "-H 'authorization: Bearer KEY' " if list_keys(context.home.keys) else ""
    return [
        "",
        f"The API answers on {url} (its pages: {url}/docs). Try:",
        "",
        f"  curl -s {url}/predict {key}-H 'content-type: application/json' -d {shlex.quote(body)}",
        "",
        "`gristmill status` shows how things stand, `gristmill down` stops everything.",
    ]
