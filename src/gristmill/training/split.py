"""Sets entities aside for the holdout: the same ones for ever, whatever else the data does.

An entity's side follows from the salt and its key alone, so it does not move when rows are added,
ordered otherwise or trained on again; hence no version ever trained on the entities that a later
version is compared on.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


def holdout_mask(entities: Iterable[object], *, salt: str, share: float) -> NDArray[np.bool_]:
    """Which entities are held out: True for about `share` of them.

    An entity is held out where the first 8 bytes of blake2b("salt:entity"), read as a fraction of
    2**64, are below the share; a greater share therefore holds out the same entities and more.
    The salt is the project's name. Entities are compared by their text: 7 and "7" are the same.
    """
    # One hash state with the salt in it, copied: the salt is not hashed again for every entity.
    salted = hashlib.blake2b(f"{salt}:".encode(), digest_size=8)
    digests = bytearray()
    for entity in entities:
        state = salted.copy()
        state.update(str(entity).encode())
        digests += state.digest()
    fractions = np.frombuffer(bytes(digests), dtype=">u8").astype(np.float64) / 2.0**64
    return cast("NDArray[np.bool_]", fractions < share)
