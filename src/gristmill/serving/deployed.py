"""What a deployed server is told by its environment: a bundle, and no project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.errors import ServingError
from gristmill.serving.server import Deployment

if TYPE_CHECKING:
    from gristmill.settings import Settings


def deployed(settings: Settings) -> Deployment:
    """What to serve by the settings alone. Raises ServingError where they name no bundle."""
    if settings.bundle is None:
        raise ServingError("Nothing says which bundle to serve: set GRISTMILL_BUNDLE.")
    home = settings.home or Path(".gristmill")
    url = settings.database_url
    return Deployment(
        bundle=settings.bundle,
        spool=home / "spool",
        database_url=url.get_secret_value() if url else None,
        keys=home / "keys.json",
        counters=home / "counters",
    )
