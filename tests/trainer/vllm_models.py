"""Tiny models for the real vLLM, whose CPU kernels want heads of 32; and what both of its engines must do alike."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from tests.trainer.tiny import tiny_model
from trainer.batch import pack
from trainer.demo import make_tokenizer
from trainer.engine.config import EngineConfig
from trainer.engine.protocol import Engine, RolloutRequest, Sampling, sampling_seed
from trainer.policy import Policy
from trainer.types import Prompt, RolloutGroup, TrainingSample
from trainer.weight_sync import Probe

NEEDS_VLLM = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
    pytest.mark.filterwarnings("ignore"),  # of vLLM's own code
]
PROMPT = Prompt("p", ({"role": "user", "content": "x"},), {"kind": "logic"}, "words", ())
VOCABULARY = 320
END_IDS = frozenset(range(1, 32))  # one in ten, so that completions end at different lengths
MAX_MODEL_LEN = 256
SETTINGS = EngineConfig(max_rows=32, kv_cache_mb=64)
PROBE = Probe.of([tuple(range(2, 200)), (3, 4, 5), (6, 7)], VOCABULARY)


def model(seed: int, tied: bool) -> Qwen3ForCausalLM:
    return tiny_model(seed, tied, head_dim=32, vocab_size=VOCABULARY)


def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer([PROMPT])


def save(folder: Path, seed: int, tied: bool) -> str:
    model(seed, tied).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def request(index: int, prompt_ids: Sequence[int], num_samples: int) -> RolloutRequest:
    seeds = tuple(sampling_seed("7", 3, f"p{index}", k) for k in range(num_samples))
    return RolloutRequest(index, replace(PROMPT, token_ids=tuple(prompt_ids)), seeds)


REQUESTS = [request(0, range(5, 170), 8), request(1, [10], 8), request(2, [11, 12, 13], 8)]


def rolled(engine: Engine, requests: Sequence[RolloutRequest] = REQUESTS) -> list[RolloutGroup]:
    return sorted(engine.rollout(requests, Sampling(1.2, 24)), key=lambda group: group.index)


def tokens(groups: Sequence[RolloutGroup]) -> list[tuple[int, ...]]:
    return [rollout.token_ids for group in groups for rollout in group.rollouts]


def largest_error(groups: Sequence[RolloutGroup], policy: Policy) -> float:
    """Largest difference of the engine's log-probabilities to the trainer's at the policy's temperature."""
    samples = [
        TrainingSample(g.index, g.prompt.token_ids, r.token_ids, r.logprobs, 0.0) for g in groups for r in g.rollouts
    ]
    batch = pack(samples)
    with torch.no_grad():
        logprobs = policy.logprobs(batch)
    return float((batch.rollout_logprobs - logprobs).abs().max())
