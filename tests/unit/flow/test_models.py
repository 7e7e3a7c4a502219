"""When a version was champion, told from the changes alone."""

from datetime import UTC, datetime

from gristmill.flow.models import tenures_of
from gristmill.registry.version import Promotion


def day(number):
    return datetime(2026, 1, number, tzinfo=UTC)


def promotion(version, number, *, rolled_back=False):
    return Promotion(
        version=version,
        promoted_at=day(number),
        by="gate",
        os_user=None,
        database_user=None,
        why="",
        rolled_back=rolled_back,
    )


CHANGES = [
    promotion("1", 1),
    promotion("3", 5),
    promotion("1", 6, rolled_back=True),
    promotion("4", 9),
]


def times(version):
    return [(one.since, one.until, one.rolled_back_to) for one in tenures_of(version, CHANGES)]


def test_a_champion_stays_until_the_next_change():
    assert times("3") == [(day(5), day(6), False)]
    assert times("4") == [(day(9), None, False)]


def test_a_version_that_was_returned_to_was_champion_twice():
    assert times("1") == [(day(1), day(5), False), (day(6), day(9), True)]


def test_a_version_that_was_never_promoted_was_never_champion():
    assert times("2") == []
    assert tenures_of("1", []) == []
