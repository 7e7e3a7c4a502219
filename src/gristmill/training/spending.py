"""How much significance an attempt on the holdout may spend, so that all of them keep a promise.

Pure: it is given what was attempted before. Every attempt counts, whatever came of it; one that
asks exactly what was asked before is no new one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHANCE_ALPHA = 0.01
"""How often, over all attempts for ever, a project without signal gets a champion by chance."""
CHAMPION_ALPHA = 0.05
"""How often, over all attempts while it reigns, a champion yields to one that is no better."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One judging on the holdout, as the record has it."""

    generation: int
    """How often the holdout's entities were renewed before it, counted from 1."""
    answers: str
    """A digest of the holdout's entities and labels, and of the scores it was judged by."""
    champion: str | None
    """The version it was compared with."""
    chance_spent: bool
    """Whether it could have given the project its first champion with signal."""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What an attempt may spend."""

    chance: float = CHANCE_ALPHA
    """On being better than chance."""
    chance_spent: bool = True
    """Whether that counts against the project's purse, as it does until a champion has signal."""
    champion: float = CHAMPION_ALPHA
    """On being better than the champion."""
    attempt: int = 1
    """Which attempt it is on the holdout's entities as they are, in the question that is open."""
    generation: int = 1
    """How often the holdout was renewed, from 1."""


def spend(promised: float, *, renewal: int, attempt: int) -> float:
    """The part of a promised error for one attempt: promised · 6/(π² renewal²) · 6/(π² attempt²).

    The sum over all attempts and renewals is what was promised, so by Bonferroni's inequality it
    holds however the attempts depend on one another. An inverse square falls slowly: the hundredth
    attempt still passes with scores 5.0 standard deviations from chance, the first with 2.7.
    """
    share = 6.0 / math.pi**2
    return promised * (share / renewal**2) * (share / attempt**2)


def allowance(
    history: Sequence[Attempt],
    *,
    generation: int,
    answers: str,
    champion: str | None,
    chance_spent: bool,
) -> Allowance:
    """What the next attempt may spend, after those before it, the oldest first.

    While no champion with signal reigns, what may go wrong is that noise becomes the first: that is
    paid from one purse for the project's life. A champion with signal has answered that question;
    then what may go wrong is that it yields to a version that is no better, each champion has a
    purse of its own, and chance is asked about without haste.
    """
    renewal, attempt = _place(
        (one for one in history if one.chance_spent), generation=generation, answers=answers
    )
    against_renewal, against = _place(
        (one for one in history if champion and one.champion == champion),
        generation=generation,
        answers=answers,
    )
    return Allowance(
        chance=spend(CHANCE_ALPHA, renewal=renewal, attempt=attempt)
        if chance_spent
        else CHANCE_ALPHA,
        chance_spent=chance_spent,
        champion=spend(CHAMPION_ALPHA, renewal=against_renewal, attempt=against),
        attempt=attempt if chance_spent else against,
        generation=generation,
    )


def generation_of(now: Iterable[str], *, last: int, began_with: Iterable[str]) -> int:
    """The generation of a holdout with these entities, after the last one and what it began with.

    It is a new one once at least half of the entities are new: asking them is mostly asking anew.
    """
    entities = set(now)
    new = len(entities - set(began_with))
    return last + 1 if last == 0 or 2 * new >= len(entities) else last


def _place(attempts: Iterable[Attempt], *, generation: int, answers: str) -> tuple[int, int]:
    """Which renewal, and which attempt in it, the next one is; one repeated keeps its place."""
    places: dict[str, tuple[int, int]] = {}
    sizes: dict[int, int] = {}
    for one in attempts:
        if one.answers not in places:
            places[one.answers] = _next(sizes, one.generation)
    return places.get(answers) or _next(sizes, generation)


def _next(sizes: dict[int, int], generation: int) -> tuple[int, int]:
    sizes[generation] = sizes.get(generation, 0) + 1
    return list(sizes).index(generation) + 1, sizes[generation]
