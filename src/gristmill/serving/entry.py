"""What a worker process starts from: the application, made from a deployment or the environment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.errors import ServingError
from gristmill.features.read import LatestFeatures, latest
from gristmill.project.features import ColumnReference, Features
from gristmill.registry.bundle import Manifest, read_bundle
from gristmill.serving.api import create_app
from gristmill.serving.server import Deployment
from gristmill.settings import read_settings
from gristmill.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from gristmill.serving.api import FeatureLookup


def build(deployment: Deployment) -> Starlette:
    """The application that one worker process serves."""
    bundle = read_bundle(deployment.bundle)
    warehouse = Warehouse(url=deployment.database_url) if deployment.database_url else None
    return create_app(
        bundle=bundle,
        spool=deployment.spool,
        warehouse=warehouse,
        lookup=_lookup(warehouse, bundle.manifest),
    )


def application() -> Starlette:
    """The application by the environment alone: `uvicorn --factory gristmill.serving.entry:…`."""
    settings = read_settings(Path.cwd())
    if settings.bundle is None:
        raise ServingError("Nothing says which bundle to serve: set GRISTMILL_BUNDLE.")
    home = settings.home or Path(".gristmill")
    url = settings.database_url
    return build(
        Deployment(
            bundle=settings.bundle,
            spool=home / "spool",
            database_url=url.get_secret_value() if url else None,
        )
    )


def _lookup(warehouse: Warehouse | None, manifest: Manifest) -> FeatureLookup | None:
    """How the bundle's features are found in the feature store, where there is one."""
    store = manifest.feature_store
    if warehouse is None or store is None:
        return None
    features = Features(
        table=store,
        entity=ColumnReference(table=store, column=manifest.entity.name),
        features=tuple(
            ColumnReference(table=store, column=feature.name) for feature in manifest.features
        ),
    )

    def find(key: int | str) -> LatestFeatures:
        return latest(features, warehouse, key)

    return find
