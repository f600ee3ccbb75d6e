"""Checkpoints: atomic, verified by hash, the last good ones kept; and the references, stored once an era.

checkpoints/step-000120/  policy/ (a Hugging Face folder)  optimizer/  rng.pt  state.json  manifest.json
eras/era-2/               the reference of era 2 as a Hugging Face folder, with era.json

All weights are safetensors, written by all ranks at once and read slice by slice, on any number of ranks.
"""

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from trainer.errors import CheckpointError, ConfigError
from trainer.files import folder_atomically, sha256_of, sha256_of_folder
from trainer.metrics import step_of
from trainer.parallel import ALONE, Ranks
from trainer.policy import Policy
from trainer.state import STATE, RunState
from trainer.tensor_files import (
    load_optimizer,
    load_policy,
    rng_states,
    save_optimizer,
    save_policy,
    set_rng_states,
)

logger = logging.getLogger(__name__)

Fingerprint = dict[str, Any]
"""`policy`, `reference`, `engine`: log-probabilities of the probe; `data`: hash of the prompts and their order;
`cursor`: the prompts that come next."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole; weights, optimizer and random states stay in its folder."""

    folder: Path
    state: RunState
    fingerprint: Fingerprint

    @property
    def policy_folder(self) -> Path:
        return self.folder / "policy"


class Checkpoints:
    """The checkpoints of one run directory. Rank 0 reads and judges; writing and `restore` are for all ranks."""

    def __init__(self, run_dir: Path, keep: int, ranks: Ranks = ALONE) -> None:
        self._folder = run_dir / "checkpoints"
        self._eras = run_dir / "eras"
        self._keep = keep
        self._ranks = ranks

    def save(
        self,
        policy: Policy,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer,
        state: RunState,
        fingerprint: Fingerprint,
    ) -> None:
        """Write the checkpoint of `state.step`, then remove what is no longer kept."""
        with self._ranks.folder(self._of_step(state.step)) as folder:
            save_policy(policy, tokenizer, folder / "policy", self._ranks)
            save_optimizer(policy, optimizer, folder / "optimizer", self._ranks)
            rng = self._ranks.gather(rng_states())
            if self._ranks.is_main:
                torch.save(rng, folder / "rng.pt")
                (folder / "state.json").write_text(
                    json.dumps({"state": STATE.dump_python(state, mode="json"), "fingerprint": fingerprint}),
                    encoding="utf-8",
                )
                (folder / "manifest.json").write_text(json.dumps(sha256_of_folder(folder), indent=1), encoding="utf-8")
        if self._ranks.is_main:
            self._prune(state)

    def restore(self, checkpoint: Checkpoint, policy: Policy, optimizer: torch.optim.Optimizer) -> None:
        """Weights, optimizer and this rank's random state; a rank that was not there keeps the one it has."""
        load_policy(policy, checkpoint.policy_folder)
        load_optimizer(policy, optimizer, checkpoint.folder / "optimizer")
        rng = torch.load(checkpoint.folder / "rng.pt", weights_only=True)
        if self._ranks.rank < len(rng):
            set_rng_states(rng[self._ranks.rank])

    def load_latest(self, before_trouble: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole, None without any; damaged ones are passed over with a warning.

        `before_trouble`: one in which no guard had begun to count. Raises CheckpointError where none of them will do.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                checkpoint = self.load(step)
            except CheckpointError as error:
                logger.warning("%s; trying the one before", error)
                continue
            if not (before_trouble and any(checkpoint.state.guards.streaks.values())):
                return checkpoint
        if steps:
            raise CheckpointError(
                f"{self._folder}: no checkpoint is {'older than the trouble' if before_trouble else 'whole'}"
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """One checkpoint, its hashes verified. Raises CheckpointError where it is missing or damaged."""
        folder = self._of_step(step)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not there; kept are {', '.join(map(str, self.steps())) or 'none'}")
        verify_folder(folder)
        dumped = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        try:
            state = STATE.validate_python(dumped["state"])
        except ValidationError as error:
            raise CheckpointError(f"{folder}: written by another version ({error.error_count()} errors)") from error
        return Checkpoint(folder, state, dumped["fingerprint"])

    def remove_after(self, step: int) -> None:
        """Forget what a rollback has undone."""
        for later in self.steps():
            if later > step:
                shutil.rmtree(self._of_step(later))

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(map(step_of, self._folder.glob("step-*")))

    def _prune(self, state: RunState) -> None:
        """Keeps the newest, the best validated of the era, and the newest from before a guard began to count."""
        steps = self.steps()
        keep = set(steps[-self._keep :]) | ({state.best.step} if state.best else set())
        if any(state.guards.streaks.values()):
            return
        for step in steps:
            if step not in keep:
                shutil.rmtree(self._of_step(step))

    def save_era(self, policy: Policy, tokenizer: PreTrainedTokenizerBase, era: int, note: dict[str, Any]) -> str:
        """Store an era's reference; returns the hash of its weights."""
        with self._ranks.folder(self.era_folder(era)) as folder:
            save_policy(policy, tokenizer, folder, self._ranks)
            if self._ranks.is_main:
                (folder / "era.json").write_text(json.dumps({"era": era, **note}), encoding="utf-8")
        return self._ranks.on_main(lambda: weights_hash(self.era_folder(era)))

    def era_folder(self, era: int, expected_hash: str | None = None) -> Path:
        """The folder of an era's reference. Raises CheckpointError where its weights are not those expected."""
        folder = self._eras / f"era-{era}"
        if expected_hash is not None and (not folder.is_dir() or weights_hash(folder) != expected_hash):
            raise CheckpointError(f"{folder}: not the reference that the checkpoint was written with")
        return folder

    def _of_step(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"


def verify_folder(folder: Path) -> None:
    """Raises CheckpointError unless the folder holds exactly what its manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: no readable manifest") from error
    found = sha256_of_folder(folder)
    found.pop("manifest.json", None)
    if found != manifest:
        wrong = sorted(name for name in found.keys() | manifest.keys() if found.get(name) != manifest.get(name))
        raise CheckpointError(f"{folder}: damaged ({', '.join(wrong[:3])})")


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weight files of a Hugging Face folder; for the usual single file that file's own."""
    hashes = [sha256_of(path) for path in sorted(folder.glob("*.safetensors"))]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def export_policy(run_dir: Path, step: int | None, out: Path) -> None:
    """Copy the policy of a step (the last one without) out of its checkpoint, its hashes verified.

    Raises CheckpointError where there is no such checkpoint, ConfigError where `out` is in the way.
    """
    checkpoints = Checkpoints(run_dir, keep=2)
    checkpoint = checkpoints.load_latest() if step is None else checkpoints.load(step)
    if checkpoint is None:
        raise CheckpointError(f"{run_dir} has no checkpoint")
    if out.exists():
        raise ConfigError(f"{out} exists")
    with folder_atomically(out) as folder:
        shutil.copytree(checkpoint.policy_folder, folder, dirs_exist_ok=True)
