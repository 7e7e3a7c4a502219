"""What is stale: builds whose sources have moved on. Builds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.errors import BuildError
from gristmill.features import builds
from gristmill.features.build import feature_store_recipe, training_set_recipe
from gristmill.features.derive import stale_recipes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from gristmill.features.builds import Recipe
    from gristmill.project.project import Project
    from gristmill.warehouse.connection import Transaction, Warehouse


def stale(project: Project, warehouse: Warehouse, *, now: datetime) -> list[str]:
    """The names that a build would renew because of what they are made of.

    That time has passed, so that rows of a history began, makes nothing stale here.
    """
    with warehouse.transaction() as transaction:
        try:
            found = [
                name
                for name, derived in project.derived.items()
                if stale_recipes(transaction, derived, project, now=now)[0]
            ]
            for recipe in _recipes(transaction, project, now=now):
                current = builds.current_builds(transaction, recipe.name).get(recipe.period)
                if current is None or not current.is_of(recipe):
                    found.append(recipe.name)
        except BuildError as error:  # a source was never loaded or built
            return [str(error)]
        return found


def _recipes(transaction: Transaction, project: Project, *, now: datetime) -> Iterator[Recipe]:
    features = project.features
    if features is None:
        return
    yield feature_store_recipe(transaction, project, features, now=now)[0]
    if features.label:
        yield training_set_recipe(transaction, project, features, features.label, now=now)
