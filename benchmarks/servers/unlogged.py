"""Our command line, but for the record: nothing is kept of an answer. For this measurement only."""

from gristmill.cli import main
from gristmill.predictions.log import PredictionLog


async def forget(_: PredictionLog, __: object) -> None:
    """Keep nothing."""


PredictionLog.append = forget
PredictionLog.append_soon = lambda _, __, told: told(None)
main()
