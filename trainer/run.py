"""A run and its parts, and how it goes back to a checkpoint, proven to be the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trainer.checkpoint import Checkpoint, Checkpoints, Fingerprint
from trainer.engine.protocol import Engine
from trainer.errors import CheckpointError
from trainer.ledger import LedgerEvent, append, read_ledger
from trainer.metrics import MetricsWriter, write_rollouts
from trainer.parallel import Ranks
from trainer.policy import Policy, copy_weights
from trainer.reward import Scorer
from trainer.rollouts import Collector
from trainer.run_config import RunConfig
from trainer.stage import with_settings
from trainer.state import RunState
from trainer.tensor_files import load_policy
from trainer.types import Prompt, RolloutGroup
from trainer.weight_sync import Probe, largest_difference, push_weights

NUM_UPCOMING = 8
"""Prompts that a fingerprint looks ahead."""
MAX_ROLLOUT_GROUPS = 64
"""Groups written to `rollouts/` a step: a sample to read, not an archive."""


@dataclass
class Run:
    """Everything the loop works with. `state` is what a checkpoint remembers, the rest is made again."""

    config: RunConfig
    ranks: Ranks
    policy: Policy
    reference: Policy
    tokenizer: PreTrainedTokenizerBase
    optimizer: torch.optim.Optimizer
    engine: Engine
    scorer: Scorer
    collector: Collector
    validation_sets: dict[str, list[Prompt]]
    probe: Probe
    data_hash: str
    checkpoints: Checkpoints
    metrics: MetricsWriter | None
    """None on all ranks but the first."""
    state: RunState
    sync_tolerance: float
    """See EngineConfig."""

    def fingerprint(self) -> Fingerprint:
        """What must be the same after a resume."""
        return {
            "policy": self.probe.by_policy(self.policy),
            "reference": self.probe.by_policy(self.reference),
            "engine": self.probe.by_engine(self.engine),
            "data": self.data_hash,
            "cursor": self.collector.prompts.upcoming(NUM_UPCOMING),
        }

    def save(self) -> None:
        self.checkpoints.save(self.policy, self.tokenizer, self.optimizer, self.state, self.fingerprint())

    def push(self) -> float:
        """Give the engine the policy's weights; returns the largest difference of log-probabilities."""
        difference = push_weights(self.policy, self.engine, self.state.step, self.probe, self.sync_tolerance)
        return max(self.ranks.gather(difference))

    def write(self, metrics: Mapping[str, Any], judged: Sequence[RolloutGroup]) -> None:
        """The step's line of metrics, and its rollouts where they are due."""
        if self.metrics is not None:
            self.metrics.write(metrics)
            if self.state.step % self.config.checkpoint.rollouts_every_steps == 0:
                write_rollouts(self.config.run_dir, self.state.step, judged, MAX_ROLLOUT_GROUPS)

    def note(self, event: str, cause: str, **more: Any) -> None:
        """A line in the ledger; `more` are further fields of a LedgerEvent."""
        if not self.ranks.is_main:
            return
        line = {
            "event": event,
            "step": self.state.step,
            "era": self.state.era,
            "cause": cause,
            "validation": self.state.validation,
            "verifier_versions": self.state.verifier_versions,
            "reference_hash": self.state.reference_hash,
        }
        append(self.config.run_dir, LedgerEvent.model_validate(line | more))

    def meet_verifiers(self, versions: Mapping[str, str]) -> None:
        """Remember the verifiers' versions; that one is another than before goes to the ledger."""
        known = self.state.verifier_versions
        if any(known.get(kind, version) != version for kind, version in versions.items()):
            self.note("stage", "another verifier version", changes={"verifier_versions": dict(versions)})
        self.state = replace(self.state, verifier_versions={**known, **versions})

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Weights, optimizer and state back in place, the engine's too. Raises CheckpointError where they differ."""
        state = checkpoint.state
        reference = self.ranks.on_main(lambda: self.checkpoints.era_folder(state.era, state.reference_hash))
        # By way of the policy, which has the shards and the dtype that the files have.
        load_policy(self.policy, reference)
        copy_weights(self.policy, self.reference)
        self.checkpoints.restore(checkpoint, self.policy, self.optimizer)
        self.state = state
        if state.best is not None and state.best.step not in self.ranks.on_main(self.checkpoints.steps):
            self.state = replace(state, best=None)  # a later best had taken its place, in a checkpoint now damaged
        self.collector.prompts.state = state.draws
        self.push()
        check_fingerprint(checkpoint.fingerprint, self.fingerprint(), self.sync_tolerance)

    def stage_config(self, step: int) -> RunConfig:
        """The config of a step; where a stage begins with it the ledger gets a line.

        Samples of one temperature are not trained on at another.
        """
        now = self.config.at(step, self.state.era)
        if self.state.temperature != now.sampling.temperature:
            self.state = replace(self.state, carry=())
        for stage in self.config.stages:
            if stage.from_step == step or (
                stage.from_era == self.state.era and self.state.triggers.era_start_step == step - 1
            ):
                self.note("stage", stage.name, changes=dict(stage.set))
        return now

    def checkpoint_is_due(self) -> bool:
        """On schedule, after the last step, and where the era's best policy must be kept to go back to."""
        step, state = self.state.step, self.state
        best = self.may_go_back and state.best is not None and state.best.step == step
        return best or step % self.config.checkpoint.every_steps == 0 or step == self.config.num_steps

    @property
    def may_go_back(self) -> bool:
        """Whether a reset goes back to the era's best policy, now or from some stage on."""
        staged: list[dict[str, Any]] = [with_settings({}, stage.set).get("reset", {}) for stage in self.config.stages]
        return "best" in (self.config.reset.source, *(section.get("source") for section in staged))

    @property
    def finished(self) -> bool:
        """Whether the ledger already says so of this step."""
        step, run_dir = self.state.step, self.config.run_dir
        return self.ranks.on_main(lambda: any(e.event == "finish" and e.step == step for e in read_ledger(run_dir)))

    def parent(self) -> str | None:
        """Where the run began from another run's era: which."""
        note = Path(self.config.model.path or "") / "era.json"
        if self.config.model.path is None or not note.is_file():
            return None
        era = json.loads(note.read_text(encoding="utf-8"))
        return f"{era['run']} era {era['era']} step {era['step']}"

    def go_back_to_policy_of(self, step: int) -> None:
        """Give the policy the weights of a step whose checkpoint is kept."""
        load_policy(self.policy, self.ranks.on_main(lambda: self.checkpoints.load(step)).policy_folder)

    def close(self) -> None:
        self.scorer.close()
        self.engine.close()
        if self.metrics is not None:
            self.metrics.close()


def check_fingerprint(stored: Fingerprint, found: Fingerprint, tolerance: float) -> None:
    """Raises CheckpointError: what would go on is not what was stopped."""
    if stored["data"] != found["data"]:
        raise CheckpointError("the data is not that of the run: its prompts, their order or the tokenizer changed")
    if stored["cursor"] != found["cursor"]:
        raise CheckpointError("the data restored does not go on with the prompts that came next")
    for name in ("policy", "reference", "engine"):
        difference = largest_difference(stored[name], found[name])
        if difference > tolerance:
            raise CheckpointError(
                f"the {name} restored differs from the one saved: log-probabilities by {difference:.3g}"
            )
