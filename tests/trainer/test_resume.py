"""A run killed at any moment and started again gives what a run never killed gives, bit for bit."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.tiny import FakeService, metrics_of, run_config, train_quietly
from trainer import checkpoint, era, run
from trainer.checkpoint import Checkpoints
from trainer.files import sha256_of_folder
from trainer.ledger import read_ledger
from trainer.run_config import RunConfig

NUM_STEPS = 7


def config(run_dir: Path) -> RunConfig:
    """Two resets, at steps 3 and 6; checkpoints after 2, 3, 4, 6 and 7; validation; groups carried over."""
    return run_config(
        run_dir,
        num_steps=NUM_STEPS,
        reset__every_steps=3,
        filter__oversample=1.5,
        data__retire_after=1,
        validation={
            "sources": [{"name": "held", "dataset": "spell_backward", "seed": 2, "count": 6}],
            "every_steps": 3,
            "num_samples": 2,
        },
    )


def die_at(moment: int, within: tuple[Any, str] | None) -> None:
    """This process kills itself at the given call of anything that writes, learns or judges.

    Calls are counted from the beginning, or from the first time that the function `within` begins.
    """
    count = 0
    counting = within is None

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += counting
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    def begin(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal counting
            counting = True
            return function(*args, **kwargs)

        return call

    if within is not None:
        setattr(*within, counted(begin(getattr(*within))))
        counting = False
    places: list[tuple[Any, str]] = [
        (os, "fsync"), (os, "truncate"), (Path, "replace"), (Path, "write_text"), (Path, "unlink"), (shutil, "rmtree"),
        (torch, "save"), (torch.optim.AdamW, "step"), (FakeService, "score"),
        (checkpoint, "save_policy"), (checkpoint, "save_optimizer"), (era, "copy_weights"), (run, "write_rollouts"),
    ]  # fmt: skip
    for owner, name in places:
        setattr(owner, name, counted(getattr(owner, name)))


def train_until(run_dir: Path, moment: int, within: tuple[Any, str] | None = None) -> bool:
    """Train in a process of its own that dies at `moment`; True where it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            die_at(moment, within)
            train_quietly(config(run_dir))
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, "the run failed by itself"
    return status == 0


def outcome_of(run_dir: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was killed."""
    last = Checkpoints(run_dir, keep=2).load(NUM_STEPS)
    rollouts = {p.name: p.read_text() for p in (run_dir / "rollouts").glob("*.jsonl")}
    return {
        "metrics": metrics_of(run_dir),
        "checkpoint": sha256_of_folder(last.folder),
        "state": last.state,
        "rollouts": rollouts,
        "eras": {str(p.relative_to(run_dir)): p.read_bytes() for p in (run_dir / "eras").glob("*/*.safetensors")},
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    train_quietly(config(run_dir))
    return outcome_of(run_dir)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found == expected


def test_the_run_has_what_a_resume_could_lose(unbroken: dict[str, Any]) -> None:
    """Otherwise the tests below prove less than they say."""
    assert [line["era"] for line in unbroken["metrics"]] == [0, 0, 0, 1, 1, 1, 2]
    assert any(line["num_carried"] for line in unbroken["metrics"])
    assert any("validation" in line for line in unbroken["metrics"])
    assert unbroken["state"].draws.counts
    assert "optimizer/model.safetensors" in unbroken["checkpoint"]
    assert len(unbroken["eras"]) == 3


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(i, marks=pytest.mark.soak) for i in range(2, 30))])
def test_killed_at_random_moments(tmp_path: Path, unbroken: dict[str, Any], seed: int) -> None:
    rng, kills = random.Random(seed), 0
    while not train_until(tmp_path, rng.randint(1, 150)):
        kills += 1
    assert kills > 0
    assert_same(outcome_of(tmp_path), unbroken)
    events = [event.event for event in read_ledger(tmp_path)]
    assert events.count("finish") == 1
    assert events.index("start") == 0


PLACES = {"reset": (era, "hard_reset", 37), "save": (Checkpoints, "save", 20)}
"""Where it begins, and for how many moments it lasts."""
STRIDE = 8
"""In `make test` every eighth moment, in `make soak` all of them."""


@pytest.mark.parametrize("offset", [1, *(pytest.param(i, marks=pytest.mark.soak) for i in range(2, STRIDE + 1))])
@pytest.mark.parametrize("place", PLACES)
def test_killed_within(tmp_path: Path, unbroken: dict[str, Any], place: str, offset: int) -> None:
    """Within the first reset, its reference, ledger line and checkpoint; within the very first checkpoint."""
    owner, function, num_moments = PLACES[place]
    for moment in range(offset, num_moments, STRIDE):
        run_dir = tmp_path / f"run{moment}"
        assert not train_until(run_dir, moment, (owner, function))
        assert train_until(run_dir, 0)
        assert_same(outcome_of(run_dir), unbroken)
