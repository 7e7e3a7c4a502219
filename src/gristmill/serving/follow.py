"""Lets a running service notice a new champion and go over to it, without a dropped request.

A bundle that is not what it should be is refused, and the version before it goes on answering.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import BundleError, GristmillError, ServingError, WarehouseError
from gristmill.registry.bundle import MANIFEST, read_bundle
from gristmill.serving.service import load_served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gristmill.registry.store import Registry
    from gristmill.serving.service import Served, Service

    Find = Callable[[], "Candidate | None"]
    """What should answer now; None where that cannot be said."""

logger = logging.getLogger(__name__)

LOOK_EVERY = 2.0
"""Seconds between two looks for a new champion."""
RETRY_EVERY = 10.0
"""Seconds between two tries of a bundle that was refused: it may have been half copied."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A bundle that should answer."""

    folder: Path
    digest: str
    """What its manifest's SHA-256 has to be."""


def in_folder(folder: Path) -> Find:
    """The bundle that lies in a folder, or that a link leads to."""

    def find() -> Candidate | None:
        try:
            target = folder.resolve(strict=True)
            digest = hashlib.sha256((target / MANIFEST).read_bytes()).hexdigest()
        except OSError:
            return None
        return Candidate(folder=target, digest=digest)

    return find


def in_registry(registry: Registry) -> Find:
    """The champion's bundle."""

    def find() -> Candidate | None:
        champion = registry.champion()
        if champion is None:
            return None
        if champion.bundle_digest is None:
            return in_folder(champion.bundle)()
        return Candidate(folder=champion.bundle, digest=champion.bundle_digest)

    return find


async def follow(service: Service, find: Find, digest: str) -> None:
    """Have the service answer by what is found, for ever; `digest` is what it answers by now."""
    refused: str | None = None
    retry_at = 0.0
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            found = await asyncio.to_thread(find)
        except WarehouseError:
            # Who cannot ask goes on; that predictions wait tells that the database is away.
            continue
        if found is None or found.digest == digest:
            service.refused, refused = None, None
            continue
        if found.digest == refused and time.monotonic() < retry_at:
            continue
        try:
            served = await asyncio.to_thread(_load, found, service)
        except (BundleError, ServingError) as error:
            _refuse(service, found, error, again=found.digest == refused)
            refused, retry_at = found.digest, time.monotonic() + RETRY_EVERY
        else:
            logger.warning(
                "Version %s answers instead of %s.",
                served.manifest.version,
                service.served.manifest.version,
            )
            service.replace(served)
            service.counters.add("swaps")
            digest, service.refused, refused = found.digest, None, None


def _load(found: Candidate, service: Service) -> Served:
    return load_served(read_bundle(found.folder, digest=found.digest), service.warehouse)


def _refuse(service: Service, found: Candidate, error: GristmillError, *, again: bool) -> None:
    service.refused = found.folder.name
    if not again:
        service.counters.add("swaps_refused")
        logger.error("The bundle %s is refused, and nothing changes: %s", found.folder, error)
