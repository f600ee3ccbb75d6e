"""What a run leaves behind step by step: `metrics.jsonl`, TensorBoard, and a sample of rollouts.

One JSON object a step in `metrics.jsonl`. All of STEP_FIELDS are there; beside them, as the step has them:
    "domains":    {domain: {"reward_mean": 0.4, "num_completions": 64}}, and what else `measure.summary` gives
    "validation": {"score": 0.41, "error": 0.02,
                   "sets": {name: {"mean": 0.41, "standard_error": 0.03, "pass_at": {"1": 0.41, "4": 0.7}}}}
NaN and infinity, which JSON has not, are written as null.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from trainer.jsonl import read_jsonl, write_atomically
from trainer.types import Rollout, RolloutGroup

STEP_FIELDS = (
    "step",
    "era",
    "reward_mean",
    "reward_std",
    "kl_ref",
    "entropy",
    "clip_low_frac",
    "clip_high_frac",
    "grad_norm",
    "completion_tokens_mean",
    "truncated_frac",
    "kept_group_frac",
    "reward_error_frac",
    "logprob_mismatch_kl",
    "tokens_per_s",
    "time_generate_s",
    "time_reward_s",
    "time_update_s",
    "time_sync_s",
)
"""The contract's names; users' scripts rely on them."""
METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FOLDER = "rollouts"


def finite(value: Any) -> Any:
    """The value with every NaN and infinity in it as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    return value


def numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All numbers, nested ones under names joined by slashes."""
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", float(value)


def cut_after(run_dir: Path, last_step: int) -> None:
    """Removes what metrics and rollouts hold past `last_step`: the resumed run writes it again."""
    kept = [record for record in read_jsonl(run_dir / METRICS_FILE) if record["step"] <= last_step]
    if (run_dir / METRICS_FILE).exists():
        write_atomically(run_dir / METRICS_FILE, "".join(json.dumps(record) + "\n" for record in kept))
    for path in (run_dir / ROLLOUTS_FOLDER).glob("step-*.jsonl"):
        if step_of(path) > last_step:
            path.unlink()


def step_of(path: Path) -> int:
    """The step that a file or folder `step-000120...` is named after."""
    return int(path.name.removeprefix("step-").split(".")[0])


class MetricsWriter:
    """Appends one object a step to `metrics.jsonl`, on disk before `write` returns, and mirrors it to TensorBoard."""

    def __init__(self, run_dir: Path, last_step: int) -> None:
        """`last_step`: that of the checkpoint resumed from; what is past it is cut. -1 for a new run."""
        cut_after(run_dir, last_step)
        self._file = (run_dir / METRICS_FILE).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=last_step + 1)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Raises ValueError when a field of the contract is missing."""
        missing = [name for name in STEP_FIELDS if name not in metrics]
        if missing:
            raise ValueError(f"metrics lack {', '.join(missing)}")
        record = finite(metrics)
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in numbers(record):
            self._board.add_scalar(name, value, int(record["step"]))

    def close(self) -> None:
        self._file.close()
        self._board.close()


def rollout_record(rollout: Rollout) -> dict[str, Any]:
    verdict = rollout.verdict
    return {
        "completion": rollout.text,
        "num_tokens": len(rollout.token_ids),
        "truncated": rollout.truncated,
        "outcome": verdict.outcome if verdict else None,
        "reward": rollout.reward,
        "shaped_reward": rollout.shaped_reward,
        "reason": verdict.reason if verdict else None,
        "extracted": verdict.extracted if verdict else None,
    }


def write_rollouts(run_dir: Path, step: int, groups: Sequence[RolloutGroup], max_groups: int) -> None:
    """Writes the step's first `max_groups` groups to `rollouts/step-*.jsonl`, one line a group."""
    folder = run_dir / ROLLOUTS_FOLDER
    folder.mkdir(exist_ok=True)
    records = [
        {
            "step": step,
            "index": group.index,
            "prompt_id": group.prompt.id,
            "domain": group.prompt.domain,
            "messages": [dict(message) for message in group.prompt.messages],
            "rollouts": [rollout_record(rollout) for rollout in group.rollouts],
        }
        for group in groups[:max_groups]
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_atomically(folder / f"step-{step:06d}.jsonl", lines)
