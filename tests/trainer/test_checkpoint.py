"""Checkpoints: whole or passed over, kept or pruned."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.trainer.builders import group
from tests.trainer.tiny import tiny_model
from trainer.checkpoint import Checkpoints, export_policy
from trainer.demo import make_tokenizer
from trainer.errors import CheckpointError, ConfigError
from trainer.guard import GuardState
from trainer.policy import Policy
from trainer.prompts import DrawState
from trainer.state import STATE, RunState
from trainer.triggers import TriggerState, Validation
from trainer.types import Prompt

POLICY = Policy(tiny_model(), 1.2)
FINGERPRINT = {"policy": [[-0.1]], "reference": [[-0.1]], "engine": [[-0.1]], "data": "x", "cursor": ["p1"]}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer([Prompt("p", ({"role": "user", "content": "x"},), {}, "words", ())])


@pytest.fixture
def checkpoints(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Checkpoints:
    """Steps 2, 4 and 6 were saved, two are kept."""
    made = Checkpoints(tmp_path, keep=2)
    for step in (2, 4, 6):
        save(made, tokenizer, RunState(step=step))
    return made


def save(checkpoints: Checkpoints, tokenizer: PreTrainedTokenizerFast, state: RunState) -> None:
    checkpoints.save(POLICY, tokenizer, stepped(POLICY), state, FINGERPRINT)


def stepped(policy: Policy) -> torch.optim.AdamW:
    """An optimizer with moments, after a step that moves nothing."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
    for i, p in enumerate(policy.parameters()):
        p.grad = torch.full_like(p, i + 1.0)
    optimizer.step()
    return optimizer


def folder(checkpoints: Checkpoints, step: int) -> Path:
    return checkpoints._of_step(step)


def test_the_newest_are_kept(checkpoints: Checkpoints) -> None:
    assert checkpoints.steps() == [4, 6]
    latest = checkpoints.load_latest()
    assert latest is not None
    assert (latest.state.step, latest.fingerprint) == (6, FINGERPRINT)


@pytest.mark.parametrize(
    "name", ["policy/model.safetensors", "optimizer/model.safetensors", "state.json", "rng.pt", "policy/tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints: Checkpoints, name: str, damage: str) -> None:
    path = folder(checkpoints, 6) / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(6)
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest.state.step == 4


def test_a_checkpoint_without_manifest_is_passed_over(checkpoints: Checkpoints) -> None:
    (folder(checkpoints, 6) / "manifest.json").unlink()
    latest = checkpoints.load_latest()
    assert latest is not None
    assert latest.state.step == 4


def test_a_rollback_passes_a_damaged_checkpoint_over(checkpoints: Checkpoints) -> None:
    (folder(checkpoints, 6) / "state.json").unlink()
    latest = checkpoints.load_latest(before_trouble=True)
    assert latest is not None
    assert latest.state.step == 4


def test_where_none_is_whole_nothing_is_begun_anew(checkpoints: Checkpoints) -> None:
    for step in checkpoints.steps():
        (folder(checkpoints, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        checkpoints.load_latest()


def test_an_unfinished_folder_is_not_a_checkpoint(checkpoints: Checkpoints) -> None:
    shutil.copytree(folder(checkpoints, 6), folder(checkpoints, 8).with_name(".step-000008.tmp"))
    assert checkpoints.steps() == [4, 6]


def test_the_best_of_the_era_is_kept(checkpoints: Checkpoints, tokenizer: PreTrainedTokenizerFast) -> None:
    for step in (8, 10, 12):
        save(checkpoints, tokenizer, RunState(step=step, best=Validation(6, 0.5, 0.1)))
    assert checkpoints.steps() == [6, 10, 12]


def test_while_a_guard_counts_what_came_before_is_kept(
    checkpoints: Checkpoints, tokenizer: PreTrainedTokenizerFast
) -> None:
    for step in (8, 10, 12):
        save(checkpoints, tokenizer, RunState(step=step, guards=GuardState({"entropy": step - 7})))
    latest = checkpoints.load_latest(before_trouble=True)
    assert latest is not None
    assert latest.state.step == 6


def test_the_state_survives_json_bit_for_bit() -> None:
    state = RunState(
        step=3,
        draws=DrawState({"math": 7}, {"training/math/1": 2}),
        carry=(group(5, [0.1 + 0.2, None]), group(6, [1.0, 0.0])),
        triggers=TriggerState(2, (Validation(3, 1 / 3, 0.01),), 1, 2),
        guards=GuardState({"entropy": 1}, 2),
        best=Validation(3, 1 / 3, 0.01),
        validation={"blend": 1 / 3},
    )
    assert STATE.validate_python(STATE.dump_python(state, mode="json")) == state


def test_the_reference_of_an_era_is_the_one_expected(
    checkpoints: Checkpoints, tokenizer: PreTrainedTokenizerFast
) -> None:
    first = checkpoints.save_era(POLICY, tokenizer, 1, {})
    assert checkpoints.era_folder(1, first).is_dir()
    second = checkpoints.save_era(Policy(tiny_model(1), 1.2), tokenizer, 1, {})
    assert first != second
    with pytest.raises(CheckpointError, match="not the reference"):
        checkpoints.era_folder(1, first)
    with pytest.raises(CheckpointError, match="not the reference"):
        checkpoints.era_folder(2, first)


def test_export_takes_a_kept_step_and_never_overwrites(checkpoints: Checkpoints, tmp_path: Path) -> None:
    export_policy(tmp_path, 4, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="exists"):
        export_policy(tmp_path, None, tmp_path / "out")
    with pytest.raises(CheckpointError, match="step-000002 is not there; kept are 4, 6"):
        export_policy(tmp_path, 2, tmp_path / "other")
