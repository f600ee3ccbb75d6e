"""Whole runs on two ranks: what one rank would do, killed and resumed, and gone on with by another number of ranks."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.ranks import fork_ranks, on_ranks
from tests.trainer.tiny import FakeService, metrics_of, run_config, train_quietly
from tests.verifier_service.service_process import ServiceProcess
from trainer import era, tensor_files
from trainer.engine.torch_engine import TorchEngine
from trainer.errors import ConfigError
from trainer.files import sha256_of_folder
from trainer.ledger import read_ledger
from trainer.parallel import Ranks
from trainer.policy import Policy
from trainer.run_config import RunConfig

NUM_STEPS = 6


def config(run_dir: Path, **changes: Any) -> RunConfig:
    """A reset at step 3 and another that nothing follows; dynamic sampling; validation.

    Adam with its usual eps divides entries of almost no gradient by their own rounding errors, which numbers of ranks
    do not have in common.
    """
    held = {"name": "held", "dataset": "spell_backward", "seed": 2, "count": 5}
    settings: dict[str, Any] = {
        "num_steps": NUM_STEPS,
        "reset__every_steps": 3,
        "validation": {"sources": [held], "every_steps": 3, "num_samples": 2},
        "optimizer__eps": 1e-5,
    }
    return run_config(run_dir, **(settings | changes))


def run_on(num_ranks: int, run_dir: Path, prepare: Callable[[int], None] = lambda rank: None, **changes: Any) -> int:
    """Train; the worst exit code of the ranks."""

    def train(rank: int) -> None:
        prepare(rank)
        train_quietly(config(run_dir, **changes))

    return max(fork_ranks(num_ranks, train), key=abs)


def contents(run_dir: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was killed."""
    return {
        "metrics": metrics_of(run_dir),
        "checkpoint": sha256_of_folder(run_dir / "checkpoints" / f"step-{NUM_STEPS:06d}"),
        "eras": sha256_of_folder(run_dir / "eras"),
        "rollouts": sha256_of_folder(run_dir / "rollouts"),
    }


def assert_alike(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Metrics to 1e-5 of their value: float32, added up in another order over several Adam steps."""
    for ours, theirs in zip(found, expected, strict=True):
        assert flat(ours) == pytest.approx(flat(theirs), rel=1e-5, abs=1e-6, nan_ok=True)


def flat(metrics: dict[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for key, value in metrics.items():
        numbers |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of ranks, a run never killed."""
    folder = tmp_path_factory.mktemp("runs")
    for num_ranks in (1, 2):
        assert run_on(num_ranks, folder / str(num_ranks) / "run") == 0
    return {num_ranks: folder / str(num_ranks) / "run" for num_ranks in (1, 2)}


CARRYING = {"filter__oversample": 1.5}
"""Where several ranks finish groups in another order than one does, so that their surplus differs."""


@pytest.fixture(scope="module")
def carrying(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of two ranks leaves that carries groups over and is never killed."""
    run_dir = tmp_path_factory.mktemp("carrying") / "run"
    assert run_on(2, run_dir, **CARRYING) == 0
    assert any(line["num_carried"] for line in metrics_of(run_dir))
    return contents(run_dir)


def test_two_ranks_train_as_one(runs: dict[int, Path]) -> None:
    one, two = metrics_of(runs[1]), metrics_of(runs[2])
    assert [line["era"] for line in two] == [0, 0, 0, 1, 1, 1]
    assert_alike(two, one)
    texts = [{p.name: p.read_text() for p in (runs[n] / "rollouts").glob("*")} for n in (1, 2)]
    assert texts[0] == texts[1], "the same groups in the same order"


def test_two_ranks_that_do_not_wait_for_each_other_train_as_one(tmp_path: Path, runs: dict[int, Path]) -> None:
    """As with an engine that is not repeatable: verdicts are read as they come."""
    run_dir = tmp_path / "run"
    assert run_on(2, run_dir, lambda rank: setattr(TorchEngine, "repeatable", False)) == 0
    assert_alike(metrics_of(run_dir), metrics_of(runs[1]))


def test_only_one_rank_writes_the_ledger(runs: dict[int, Path]) -> None:
    events = [(e.event, e.step, e.era) for e in read_ledger(runs[2])]
    assert events == [(e.event, e.step, e.era) for e in read_ledger(runs[1])]
    assert events == [("start", 0, 0), ("reset", 3, 1), ("finish", 6, 1)]


PLACES: dict[str, tuple[Any, str, int]] = {
    "sampling": (FakeService, "score", 9),
    "writing a checkpoint": (tensor_files, "save_file", 6),
    "a reset": (era, "copy_weights", 2),
}
"""What is being called, and at which call the rank dies."""


@pytest.mark.parametrize(("place", "victim"), [("sampling", 1), ("writing a checkpoint", 1), ("a reset", 0)])
def test_killed_and_resumed_on_two_ranks(tmp_path: Path, carrying: dict[str, Any], place: str, victim: int) -> None:
    """Bit for bit what the run never killed gives."""
    owner, name, moment = PLACES[place]

    def die(rank: int) -> None:
        function, calls = getattr(owner, name), iter(range(1, 10_000))

        def counted(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == moment and rank == victim:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        setattr(owner, name, counted)

    run_dir = tmp_path / "run"
    assert run_on(2, run_dir, die, **CARRYING) != 0
    assert 0 < len(metrics_of(run_dir)) < NUM_STEPS
    assert run_on(2, run_dir, **CARRYING) == 0
    assert contents(run_dir) == carrying


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on(tmp_path: Path, runs: dict[int, Path], before: int, after: int) -> None:
    """From the checkpoint after step 4, in the second era: weights, moments and the era's reference."""
    run_dir = tmp_path / "run"
    assert run_on(before, run_dir, num_steps=4) == 0
    assert run_on(after, run_dir) == 0
    assert "resume" in [e.event for e in read_ledger(run_dir)]
    assert_alike(metrics_of(run_dir)[4:], metrics_of(runs[1])[4:])


def test_a_reset_that_does_not_take_on_one_rank_stops_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rank 1 keeps its shard of the old reference: all see that the log-probabilities differ."""

    def forget(rank: int) -> None:
        copy_weights = era.copy_weights

        def copy(source: Policy, target: Policy) -> None:
            if rank == 0:
                copy_weights(source, target)

        era.copy_weights = copy  # type: ignore[attr-defined]

    assert run_on(2, tmp_path / "run", forget) == 1
    assert "ResetError: after the reset of step 3" in capfd.readouterr().err


def test_an_error_on_the_first_rank_ends_the_others(tmp_path: Path) -> None:
    def fail(ranks: Ranks) -> int | str:
        def refuse() -> None:
            raise ConfigError("no")

        try:
            ranks.on_main(refuse)
        except ConfigError as error:
            return str(error)
        except SystemExit as error:
            return int(error.code or 0)
        return "nothing"

    assert on_ranks(2, tmp_path, fail) == ["no", ConfigError.exit_code]


def test_the_command_runs_on_two_nodes(tmp_path: Path, service: ServiceProcess) -> None:
    """Two agents of torchrun that find each other, as on two machines with one device each."""
    (tmp_path / "config.toml").write_text(
        f"""
        run_dir = "{tmp_path / "run"}"
        num_steps = 1
        prompts_per_step = 2
        group_size = 2
        filter = {{ dynamic_sampling = false }}
        model = {{ num_threads = 1, demo = {{ warm_up_steps = 1, hidden_size = 64, num_layers = 1 }} }}
        sampling = {{ max_tokens = 4 }}
        reward = {{ url = "{service.url}" }}
        data = {{ sources = [{{ name = "words", dataset = "spell_backward", count = 20 }}] }}
        """
    )
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    how = f"--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:{port} --local-addr 127.0.0.1"
    command = [sys.executable, "-m", "torch.distributed.run", *how.split(), "-m", "trainer", "run", "config.toml"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=240)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert sum("step 1 " in output for output in outputs) == 1, "one rank tells the user"
    assert len(metrics_of(tmp_path / "run")) == 1
    assert len(list((tmp_path / "run" / "eras" / "era-0").glob("*.safetensors"))) == 2
