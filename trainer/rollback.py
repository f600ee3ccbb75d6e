"""What follows when a guard raises its alarm."""

import logging
from dataclasses import replace

from trainer.errors import GuardError
from trainer.guard import Alarm
from trainer.metrics import MetricsWriter
from trainer.run import Run

logger = logging.getLogger(__name__)


def act_on(alarm: Alarm, run: Run) -> None:
    """Go back to the last checkpoint from before the trouble began, or raise GuardError.

    What was undone leaves metrics and checkpoints; the ledger keeps it. The number of rollbacks is part of every
    sampling seed, so the run does not walk the same way again.
    """
    if alarm.action == "stop":
        raise GuardError(f"step {run.state.step}: {alarm.message}")
    num_rollbacks = run.state.guards.num_rollbacks  # this one counted, by the guard
    checkpoint = run.ranks.on_main(lambda: run.checkpoints.load_latest(before_trouble=True))
    assert checkpoint is not None  # every run begins with one
    run.load_checkpoint(checkpoint)
    run.state = replace(run.state, guards=replace(run.state.guards, num_rollbacks=num_rollbacks))
    run.note("rollback", alarm.message)
    if run.ranks.is_main:
        logger.warning("back to step %d: %s", run.state.step, alarm.message)
    run.ranks.on_main(lambda: run.checkpoints.remove_after(run.state.step))
    run.save()
    if run.metrics is not None:
        run.metrics.close()
        run.metrics = MetricsWriter(run.config.run_dir, run.state.step)
