"""The loop.

prompts -> engine -> rewards over HTTP -> filter and refill -> advantages -> update -> weight sync -> maybe a reset
"""

from dataclasses import replace
from typing import Any

from trainer.advantage import assign_advantages
from trainer.batch import build_batches
from trainer.era import apply_if_due, begin_era
from trainer.evaluate import validate, validation_is_due
from trainer.guard import watch
from trainer.measure import Clock, step_metrics, watched
from trainer.metrics import write_rollouts
from trainer.opening import open_run
from trainer.progress import Progress
from trainer.prompts import Sampler
from trainer.reward import RewardClient
from trainer.rollback import act_on
from trainer.rollouts import Collected
from trainer.run import Run
from trainer.run_config import RunConfig
from trainer.state import RunState
from trainer.triggers import observe_step
from trainer.types import UpdateStats
from trainer.update import configure, update_policy

MAX_ROLLOUT_GROUPS = 64
"""Groups written to `rollouts/` a step: a sample to read, not an archive."""


def train(config: RunConfig, client: RewardClient, sample: Sampler, progress: Progress) -> Run:
    """Train to the end, or go on where the run directory's last checkpoint stands."""
    run = open_run(config, client, sample)
    try:
        if not run.checkpoints.steps():
            begin(run)
        progress.begin(run.state, config)
        while run.state.step < config.num_steps:
            progress.show(train_step(run))
        if not run.finished:
            run.note("finish", "all steps done")
    finally:
        run.close()
        progress.close()
    return run


def train_step(run: Run) -> dict[str, Any]:
    """One step; returns its line of metrics."""
    step = run.state.step + 1
    config = run.stage_config(step)
    clock = Clock()

    run.engine.wake()
    collected = run.collector.collect(step, run.state, config)
    run.engine.sleep()

    # Rewards that are mostly unknown say nothing, or something biased: the step passes, the policy stays.
    trusted = collected.rewards.unknown_frac <= config.reward.max_error_frac
    samples = assign_advantages(collected.groups, config.advantage) if trusted else []
    batches = build_batches(samples, config.updates_per_step, config.tokens_per_microbatch)
    configure(run.optimizer, config.optimizer, step - run.state.triggers.era_start_step)
    with clock.measure("update"):
        stats = update_policy(
            run.policy, run.reference, run.optimizer, batches, config.loss, config.optimizer.max_grad_norm
        )
    run.state = advance(run, step, collected, stats, config)
    with clock.measure("sync"):
        run.engine.wake()
        sync_difference = run.push()
    scores = validate(run) if validation_is_due(run, step) else None

    metrics = step_metrics(run.state, collected, stats, clock, sync_difference, scores)
    run.metrics.write(metrics)
    if step % config.checkpoint.rollouts_every_steps == 0:
        write_rollouts(run.config.run_dir, step, collected.judged, MAX_ROLLOUT_GROUPS)

    guards, alarm = watch(run.state.guards, watched(metrics, stats), config.guard)
    run.state = replace(run.state, guards=guards)
    if alarm is not None:
        act_on(alarm, run)
    elif apply_if_due(run, config) is None and run.checkpoint_is_due():
        run.save()
    return metrics


def begin(run: Run) -> None:
    """The first reference, the score before training, the ledger's first line, and a checkpoint to return to."""
    begin_era(run, 0, "start")
    run.push()
    if run.config.validation:
        validate(run)
    run.note("start", "new", parent=run.parent())
    run.save()


def advance(run: Run, step: int, collected: Collected, stats: UpdateStats, config: RunConfig) -> RunState:
    """The state after the step's update."""
    run.meet_verifiers(collected.rewards.verifier_versions)
    state = run.state
    triggers = state.triggers
    if stats.num_updates:
        triggers = observe_step(triggers, stats.means.get("kl_ref", 0.0), stats.means["entropy"], config.reset)
    return replace(
        state,
        step=step,
        num_prompts=collected.num_prompts,
        draws=run.collector.prompts.state,
        carry=collected.carry,
        triggers=triggers,
        num_tokens=state.num_tokens + sum(len(r.token_ids) for g in collected.judged for r in g.rollouts),
    )
