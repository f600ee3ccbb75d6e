"""What samples completions, and where."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainer.config import Count, Positive, Section

Url = Annotated[str, Field(pattern="^https?://[^/]+$")]


def _sync_tolerance(section: dict[str, Any]) -> float:
    coarse = section.get("kind") != "torch" and section.get("dtype") == "bfloat16"
    return 0.5 if coarse else 1e-3


class EngineConfig(Section):
    """What samples completions."""

    kind: Literal["torch", "vllm", "vllm_http"] = "torch"
    """`torch`: in this process, for CPU and tests; `vllm`: vLLM in every rank; `vllm_http`: vLLM servers."""
    max_rows: Count = 256
    """Completions sampled at once, in each engine."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of vLLM's weights and arithmetic; `torch` computes in `model.dtype`."""
    sync_tolerance: Positive = Field(default_factory=_sync_tolerance)
    """Largest difference of log-probabilities, trainer against engine, with which a weight sync counts as arrived;
    by default 1e-3, and 0.5 where vLLM computes in bfloat16: improbable tokens differ by tenths. Our choice."""
    kv_cache_mb: Count = 8192
    """`vllm` and own servers on the CPU: memory of the key-value cache, MiB. A 1.5B Qwen2 takes 28 KiB a token."""
    urls: tuple[Url, ...] = ()
    """`vllm_http`: servers that others start and restart."""
    own_servers: tuple[str, ...] = ()
    """`vllm_http`: servers started and restarted here, each by its CUDA devices (`"6,7"`: two); empty: on the CPU."""
    patience_s: Positive = 900.0
    """`vllm_http`: seconds a server may take to load its model, or to come back when no other is left."""

    @model_validator(mode="after")
    def _servers_are_named(self) -> Self:
        if (self.kind == "vllm_http") != bool(self.urls or self.own_servers):
            raise ValueError('`urls` or `own_servers` belong to kind = "vllm_http", which needs one of them')
        return self
