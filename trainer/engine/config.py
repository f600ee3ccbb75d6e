"""What samples completions, and where."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config import Count, Positive, Section

Url = Annotated[str, Field(pattern="^https?://[^/]+$")]


class EngineConfig(Section):
    """What samples completions."""

    kind: Literal["torch", "vllm", "vllm_http"] = "torch"
    """`torch`: in this process, for CPU and tests; `vllm`: vLLM in every rank; `vllm_http`: vLLM servers."""
    max_rows: Count = 256
    """Completions sampled at once, in each engine."""
    sync_tolerance: Positive | None = None
    """Largest difference of log-probabilities, trainer against engine, with which a weight sync counts as arrived.
    Unset: 1e-3 in float32, 0.5 in bfloat16."""
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
