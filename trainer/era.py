"""Eras: when the reference and the optimizer are reset, and the reset itself."""

from dataclasses import replace

from trainer.errors import ResetError
from trainer.policy import copy_weights
from trainer.prompts import DrawState
from trainer.run import Run
from trainer.run_config import RunConfig
from trainer.triggers import Cause, TriggerState, due
from trainer.update import make_optimizer
from trainer.weight_sync import largest_difference


def apply_if_due(run: Run, config: RunConfig) -> Cause | None:
    """Reset after the step done last, if anything asks for it; returns the cause. `config` is the step's.

    Also when a run is opened again: after its last step it did not reset, and now there may be more steps.
    """
    step = run.state.step
    if step >= run.config.num_steps or step == run.state.triggers.era_start_step:
        return None  # a reset nothing would follow, or nothing came before
    stage_begins = any(s.with_reset and s.from_step == step + 1 for s in run.config.stages)
    file_waits = run.ranks.on_main(lambda: reset_file_waits(run))
    cause = Cause.STAGE if stage_begins else due(run.state.triggers, step, file_waits, config.reset)
    if cause is not None:
        hard_reset(run, cause, config)
        if run.ranks.is_main:
            (run.config.run_dir / "RESET").unlink(missing_ok=True)
    return cause


def reset_file_waits(run: Run) -> bool:
    """A RESET file counts in the era that it was touched in, also where a kill kept it from being removed."""
    file, era = run.config.run_dir / "RESET", run.checkpoints.era_folder(run.state.era) / "era.json"
    return file.exists() and file.stat().st_mtime_ns > era.stat().st_mtime_ns


def hard_reset(run: Run, cause: Cause, config: RunConfig) -> None:
    """Reference <- policy, optimizer fresh, warm-up again, nothing remembered of the old era (ProRL, section 2.3.1).

    With `reset.source = "best"` the policy goes back to the era's best validated checkpoint first. The new reference
    is stored, the ledger written, the checkpoint saved, in this order: killed anywhere between, the resumed run finds
    the step before and does the same reset again.
    """
    step, best, policy_step = run.state.step, run.state.best, None
    if config.reset.source == "best" and best is not None and best.step < step:
        policy_step = best.step
        run.go_back_to_policy_of(policy_step)
        run.push()
        run.state = replace(run.state, validation={"blend": best.score})
    begin_era(run, run.state.era + 1, cause)
    if config.reset.optimizer == "fresh":
        next_config = run.config.at(step + 1, run.state.era)
        run.optimizer = make_optimizer(run.policy.parameters(), next_config.optimizer)
    run.state = replace(
        run.state,
        triggers=TriggerState(era_start_step=step),
        carry=(),
        best=None,
        draws=DrawState(counts=run.state.draws.counts),  # retired prompts come again
    )
    run.collector.prompts.state = run.state.draws
    run.note("reset", cause, policy_step=policy_step)
    run.save()


def begin_era(run: Run, era: int, cause: str) -> None:
    """Store the policy as the reference of `era` and make it the reference. Raises ResetError unless it is."""
    reference_hash = run.checkpoints.save_era(
        run.policy, run.tokenizer, era, {"step": run.state.step, "cause": cause, "run": run.config.run_dir.name}
    )
    copy_weights(run.policy, run.reference)
    difference = largest_difference(run.probe.by_policy(run.policy), run.probe.by_policy(run.reference))
    if difference != 0.0:
        raise ResetError(f"after the reset of step {run.state.step} policy and reference differ by {difference:.3g}")
    run.state = replace(run.state, era=era, reference_hash=reference_hash)
