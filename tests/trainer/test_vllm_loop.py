"""The whole loop on the real vLLM: ten steps in which the reward rises, and a run that goes on after its end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.tiny import metrics_of, run_config, train_quietly
from tests.trainer.vllm_models import NEEDS_VLLM
from trainer.run_config import RunConfig
from verifier_service.schemas import Item

pytestmark = [*NEEDS_VLLM, pytest.mark.timeout(1500)]
SETTINGS = {
    "prompts_per_step": 8,
    "group_size": 8,
    "tokens_per_microbatch": 1024,
    "optimizer__learning_rate": 1e-2,
    "sampling__max_tokens": 8,
    "engine__max_rows": 64,
    "engine__kv_cache_mb": 64,
    "reset__every_steps": 6,
}


def letters(item: Item, completion: str) -> float:
    """Share of letters from a to h: something to learn for a model that knows nothing."""
    return sum(c in "abcdefgh" for c in completion) / max(len(completion), 1)


def rise(config: RunConfig) -> float:
    """Of the mean reward, from the first two steps to the last two; every weight sync is proven on the way."""
    train_quietly(config, letters)
    rewards = [line["reward_mean"] for line in metrics_of(config.run_dir)]
    assert len(rewards) == config.num_steps
    differences = [line["sync_difference"] for line in metrics_of(config.run_dir)]
    assert max(differences) < 1e-3
    assert max(line["logprob_mismatch_kl"] for line in metrics_of(config.run_dir)) < 1e-6
    return sum(rewards[-2:]) / 2 - sum(rewards[:2]) / 2


def test_ten_steps_learn_in_process_and_the_run_goes_on(tmp_path: Path) -> None:
    config = run_config(tmp_path / "run", num_steps=10, engine__kind="vllm", **SETTINGS)
    assert rise(config) > 0.3
    train_quietly(run_config(tmp_path / "run", num_steps=11, engine__kind="vllm", **SETTINGS), letters)
    assert len(metrics_of(config.run_dir)) == 11


def test_ten_steps_learn_with_a_server_of_its_own(tmp_path: Path) -> None:
    servers = {"engine__kind": "vllm_http", "engine__own_servers": [""]}
    assert rise(run_config(tmp_path / "run", num_steps=10, **servers, **SETTINGS)) > 0.3


def test_the_same_loop_on_the_engine_without_vllm(tmp_path: Path) -> None:
    assert rise(run_config(tmp_path / "run", num_steps=10, **SETTINGS)) > 0.3


TWO_RANKS = """
from pathlib import Path
import json
import sys
from tests.trainer.test_vllm_loop import SETTINGS, letters
from tests.trainer.tiny import run_config, train_quietly
train_quietly(run_config(Path(sys.argv[1]), num_steps=3, **json.loads(sys.argv[2]), **SETTINGS), letters)
"""


@pytest.mark.parametrize(
    "engine",
    [{"engine__kind": "vllm"}, {"engine__kind": "vllm_http", "engine__own_servers": [""]}],
    ids=["an engine each", "a server for both"],
)
def test_two_ranks(tmp_path: Path, engine: dict[str, Any]) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command += [str(script), str(tmp_path / "run"), json.dumps(engine)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = metrics_of(tmp_path / "run")
    assert len(lines) == 3
    assert max(line["sync_difference"] for line in lines) < 1e-3
    assert max(line["logprob_mismatch_kl"] for line in lines) < 1e-6
