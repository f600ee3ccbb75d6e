"""What both vLLM engines share, without vLLM."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.trainer.tiny import run_config
from tests.trainer.vllm_models import tokenizer
from trainer.engine.choice import http_engine, longest_sequence
from trainer.engine.config import EngineConfig
from trainer.engine.flight import Reader
from trainer.engine.protocol import Sampling, sampling_seed
from trainer.engine.vllm_request import check_version, sampling_params
from trainer.errors import ConfigError
from trainer.parallel import Ranks


@pytest.mark.parametrize("version", ["0.32.0", "0.32.0+cpu", "0.33.5", "0.33.0rc1"])
def test_versions_inside_the_window_are_taken(version: str) -> None:
    check_version(version, "as installed")


@pytest.mark.parametrize("version", ["0.31.9", "0.34.0", "1.32.0", "dev"])
def test_versions_outside_the_window_are_refused_in_one_line(version: str) -> None:
    with pytest.raises(ConfigError, match=r"^vLLM .* as installed is not supported: wanted >=0.32,<0.34$"):
        check_version(version, "as installed")


def test_seeds_fit_in_a_signed_number_and_stay_apart() -> None:
    seeds = [sampling_seed("0", 1, "p", k) for k in range(1000)]
    asked = {sampling_params(Sampling(1.2, 4), seed, frozenset({1}))["seed"] for seed in seeds}
    assert len(asked) == 1000
    assert max(asked) < 2**63


@pytest.mark.parametrize(
    "section", [{"kind": "vllm_http"}, {"kind": "vllm", "urls": ["http://a:1"]}, {"own_servers": ["0"]}]
)
def test_servers_and_their_kind_belong_together(section: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="belong to kind"):
        EngineConfig.model_validate(section)


def test_own_servers_are_refused_where_ranks_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They listen on loopback: ranks of another machine would each lose all of them."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setattr(Ranks, "on_main", lambda self, function: function())
    config = run_config(tmp_path, engine__kind="vllm_http", engine__own_servers=[""])
    with pytest.raises(ConfigError, match="other machines"):
        http_engine(
            config,
            "model",
            Reader(tokenizer(), frozenset({1})),
            torch.float32,
            Ranks(0, 2),
        )


def test_the_longest_sequence_is_that_of_any_stage(tmp_path: Any) -> None:
    stages = [
        {"name": "long", "from_step": 2, "set": {"sampling.max_tokens": 100}},
        {"name": "short", "from_step": 3, "set": {"sampling.max_tokens": 5}},
    ]
    assert longest_sequence(run_config(tmp_path, stages=stages)) == 32 + 100
