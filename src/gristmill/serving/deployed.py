"""What a deployed server is told by its environment: a bundle or a database, and no project.

It widens nothing: with a database alone it waits for the first champion, as long as it takes.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.errors import BundleError, ServingError, WarehouseError
from gristmill.registry.bundle import verify_bundle
from gristmill.registry.store import Registry
from gristmill.serving.follow import LOOK_EVERY
from gristmill.serving.keys import ensure_key
from gristmill.serving.server import Deployment
from gristmill.warehouse.kept import KeptWarehouse

if TYPE_CHECKING:
    from gristmill.settings import Settings

logger = logging.getLogger(__name__)

KEY_NAME = "environment"
"""What the key of GRISTMILL_API_KEY is called."""


def deployed(settings: Settings) -> Deployment:
    """What to serve by the settings alone: their bundle, or the champion of their database.

    Makes their API key valid. Waits for the first champion. Raises ServingError where they name
    neither a bundle nor a database.
    """
    home = settings.home or Path(".gristmill")
    url = settings.database_url.get_secret_value() if settings.database_url else None
    if settings.bundle is None and url is None:
        raise ServingError(
            "Nothing says which bundle to serve: set GRISTMILL_BUNDLE, or GRISTMILL_DATABASE_URL "
            "for the champion of a database."
        )
    if settings.api_key:
        ensure_key(home / "keys.json", KEY_NAME, settings.api_key.get_secret_value())
    bundles = None if settings.bundle or url is None else home / "bundles"
    return Deployment(
        bundle=settings.bundle or _first_champion(str(url), home / "bundles"),
        spool=home / "spool",
        database_url=url,
        bundles=bundles,
        keys=home / "keys.json",
        counters=home / "counters",
    )


def _first_champion(url: str, bundles: Path) -> Path:
    """The champion's bundle, once there is one and it is whole; tells what it waits for."""
    told = None
    warehouse = KeptWarehouse(url=url)
    registry = Registry(warehouse=warehouse, name="", bundles=bundles, artifacts=bundles)
    try:
        while True:
            try:
                champion = registry.champion()
                if champion is not None:
                    verify_bundle(champion.bundle, digest=champion.bundle_digest)
                    return champion.bundle
                found = "no version is champion yet"
            except (BundleError, WarehouseError) as error:
                found = str(error)
            if found != told:
                logger.warning("Waiting for a champion: %s", found)
                told = found
            time.sleep(LOOK_EVERY)
    finally:
        warehouse.close()
