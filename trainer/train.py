"""The loop.

prompts -> engine -> rewards over HTTP -> filter and refill -> advantages -> update -> weight sync -> maybe a reset
"""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from trainer.advantage import assign_advantages
from trainer.batch import build_batches
from trainer.era import apply_if_due, begin_era
from trainer.evaluate import validate, validation_is_due
from trainer.files import alone_in
from trainer.guard import watch
from trainer.measure import Clock, step_metrics, watched
from trainer.opening import open_run
from trainer.parallel import join_ranks
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


def train(config: RunConfig, client: RewardClient, sample: Sampler, progress: Progress) -> Run:
    """Train to the end, or go on where the run directory's last checkpoint stands; on every rank of the run."""
    with join_ranks() as ranks, ExitStack() as stack:
        ranks.on_main(lambda: stack.enter_context(alone_in(config.run_dir)))
        run = open_run(config, client, sample, ranks)
        try:
            if not ranks.on_main(run.checkpoints.steps):
                begin(run)
            apply_if_due(run, config.at(run.state.step, run.state.era))
            if ranks.is_main:
                progress.begin(run.state, config)
            while run.state.step < config.num_steps:
                metrics = train_step(run)
                if ranks.is_main:
                    progress.show(metrics)
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
    run.policy.temperature = run.reference.temperature = config.sampling.temperature

    run.engine.wake()
    collected = run.collector.collect(step, run.state, config)
    run.engine.sleep()

    # Rewards that are mostly unknown say nothing, or something biased: the step passes, the policy stays.
    trusted = collected.rewards.unknown_frac <= config.reward.max_error_frac
    samples = assign_advantages(collected.refill.accepted, config.advantage) if trusted else []
    ranks = run.ranks
    batches = build_batches(samples, config.updates_per_step, config.tokens_per_microbatch, ranks.rank, ranks.size)
    configure(run.optimizer, config.optimizer, step - run.state.triggers.era_start_step)
    with clock.measure("update"):
        stats = update_policy(
            run.policy, run.reference, run.optimizer, batches, config.loss, config.optimizer.max_grad_norm, ranks
        )
    run.state = advance(run, step, collected, stats, config)
    with clock.measure("sync"):
        run.engine.wake()
        sync_difference = run.push()
    scores = validate(run) if validation_is_due(run, step) else None

    metrics = ranks.gather(step_metrics(run.state, collected, stats, clock, sync_difference, scores))[0]
    run.write(metrics, collected.refill.decided)

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
    parent = run.parent()
    run.note("start", "branch" if parent else "new", parent=parent)
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
        temperature=config.sampling.temperature,
        triggers=triggers,
    )
