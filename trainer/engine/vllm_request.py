"""What both vLLM engines share: the versions they know, and how a completion is asked for."""

import re
from typing import Any

import torch

from trainer.engine.protocol import Sampling
from trainer.errors import ConfigError

FIRST, BEYOND = (0, 32), (0, 34)
"""The window of vLLM versions: answers name their weights since 0.32; 0.33 is the last whose interfaces were read."""


def check_version(version: str, where: str) -> None:
    """Raises ConfigError outside of the window."""
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or not FIRST <= (int(found[1]), int(found[2])) < BEYOND:
        wanted = ">={}.{},<{}.{}".format(*FIRST, *BEYOND)
        raise ConfigError(f"vLLM {version} {where} is not supported: wanted {wanted}")


def dtype_name(dtype: torch.dtype) -> str:
    """As vLLM spells it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def sampling_params(sampling: Sampling, seed: int, stop_ids: frozenset[int]) -> dict[str, Any]:
    """Of one completion, as vLLM's SamplingParams and its HTTP route take them.

    Every end token is named, as the sampler of the trainer knows them, and vLLM's own idea of them is switched off.
    Seeds are signed 64-bit numbers there: the lowest bit goes.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "max_tokens": sampling.max_tokens,
        "seed": seed >> 1,
        "logprobs": 0,
        "detokenize": False,
        "ignore_eos": True,
        "stop_token_ids": sorted(stop_ids),
    }


PROBE_PARAMS: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
"""Asks for the log-probabilities of a prompt's own tokens, at temperature 1; such a request reads no prefix cache."""
