"""The whole config of a run: the sections about models, data and machinery, the stages, and how a file becomes one."""

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from trainer.config import (
    AdvantageConfig,
    Band,
    CheckpointConfig,
    Count,
    FilterConfig,
    Fraction,
    GuardConfig,
    LossConfig,
    NotNegative,
    OptimizerConfig,
    OverlongConfig,
    Positive,
    ResetConfig,
    SamplingConfig,
    Section,
)
from trainer.engine.config import EngineConfig
from trainer.errors import ConfigError
from trainer.stage import Stage, parse_setting, with_settings


class DemoModelConfig(Section):
    """A tiny model made from a seed, see `trainer.demo`."""

    seed: int = 0
    """Of its weights."""
    hidden_size: Annotated[int, Field(ge=64, multiple_of=64)] = 128
    """Width."""
    num_layers: Count = 4
    """Depth."""
    warm_up_steps: Count = 100
    """Supervised steps before the training; their number sets how high the reward begins."""


class ModelConfig(Section):
    """The policy's beginning."""

    path: str | None = None
    """Folder or hub name of a Hugging Face causal model with tokenizer and chat template; an era's folder branches."""
    demo: DemoModelConfig | None = None
    """Make the demo's model instead."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that are trained. At a learning rate of 1e-6 bfloat16 weights lose updates."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of layers and activations; `auto`: bfloat16 on a GPU, elsewhere that of the weights."""
    checkpoint_activations: bool = False
    """Keep one tensor a layer for the backward pass and compute the rest again: a third more work, far less memory."""
    keep_whole: bool = True
    """Gather the sharded layers once an update, not once a pass: faster, and a copy of all weights in `compute_dtype`
    on every GPU."""
    compile: bool = False
    """Compile layers and head (torch.compile): fewer and larger kernels, a minute or two more at the start."""
    offload_reference: bool = False
    """Keep the reference in host memory: slower KL, less GPU memory."""
    num_threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of torch, 0: as torch finds best. A fixed number makes a CPU run repeat bit for bit."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.demo is None):
            raise ValueError("give either `path` or `demo`")
        return self


class SourceConfig(Section):
    """One domain of the data: a file of prompts, or a procedural data set asked of the service."""

    name: Annotated[str, Field(min_length=1)]
    """The domain; metrics are split by it."""
    path: Path | None = None
    """JSON lines `{"id"?, "prompt", "task"}`."""
    dataset: str | None = None
    """A Reasoning Gym name, sampled from the service when the run starts and kept in the run directory."""
    seed: int = 0
    """Of the procedural data set."""
    count: Count | None = None
    """Prompts taken: the first of the file, all where unset, or of the procedural data set (10,000 at most)."""
    config: dict[str, JsonValue] = Field(default={})
    """Of the procedural data set."""
    task: dict[str, JsonValue] = Field(default={})
    """Set on every task: `{"reward_mode": "strict"}`."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either `path` or `dataset`")
        if self.dataset is not None and self.count is None:
            raise ValueError("`dataset` needs `count`")
        return self


class Mixture(Section):
    """Domains and their shares."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)]
    """The domains."""
    weights: dict[str, NotNegative] = Field(default={})
    """Shares by domain, relative to each other; 1 where not named, 0 leaves a domain out."""

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name")
        if unknown := set(self.weights) - set(names):
            raise ValueError(f"weights of unknown sources: {', '.join(sorted(unknown))}")
        if not self.shares:
            raise ValueError("all weights are 0")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Domains with a share and what it is."""
        shares = {source.name: self.weights.get(source.name, 1.0) for source in self.sources}
        return {name: share for name, share in shares.items() if share > 0}


class DataConfig(Mixture):
    """What is trained on. Prompts that the validation also has are left out."""

    retire_after: Count | None = None
    """Retire a prompt solved by its whole group this many visits in a row; a reset revives all."""


class ValidationConfig(Mixture):
    """A blend of sets held out from training, scored on a schedule."""

    every_steps: Count = 25
    """Also before the first step and after the last."""
    num_samples: Count = 16
    """Completions a prompt (ProRL 16)."""
    temperature: NotNegative = 0.6
    """ProRL 0.6; 0 takes the likeliest token."""
    pass_at: tuple[Count, ...] = (1,)
    """Each k of pass@k; needs at least k samples."""
    thresholds: dict[str, Fraction] = Field(default={})
    """By set, the reward with which a completion passes; 1 where not named. For rewards that are fractions."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if max(self.pass_at, default=0) > self.num_samples:
            raise ValueError("pass_at needs at least as many samples")
        if unknown := self.thresholds.keys() - {source.name for source in self.sources}:
            raise ValueError(f"thresholds of unknown sources: {', '.join(sorted(unknown))}")
        return self


class RewardConfig(Section):
    """The reward service."""

    url: Annotated[str, Field(pattern="^https?://")] = "http://127.0.0.1:8000"
    """Where it answers."""
    api_key_env: str = "VERIFIER_API_KEY"
    """Environment variable that holds the key, if the service asks for one."""
    patience_s: Positive = 120.0
    """Seconds of retries while the service cannot be reached or is full; what is lost then is unknown."""
    deadline_s: Positive = 300.0
    """What was not given to a grader after this time is unknown."""
    max_concurrency: Count = 16
    """Requests under way; a request is one group."""
    max_error_frac: Fraction = 0.2
    """A step with a larger share of unknown rewards is not trained on. Our choice."""


class RunConfig(Section):
    """A run."""

    run_dir: Path
    """Everything the run writes; a run directory with a checkpoint is resumed."""
    seed: int = 0
    """Order of the prompts and every sampled token follow from it."""
    num_steps: Count
    """Training steps in all."""
    prompts_per_step: Count = 256
    """Groups a step trains on (ProRL 256)."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """Completions a prompt (ProRL 16; 32 in its runs 6 and 7)."""
    updates_per_step: Count = 4
    """Optimizer steps a training step, each on a part of every group (ProRL 4)."""
    tokens_per_microbatch: Count = 16384
    """Packed tokens of one forward pass; a longer sequence goes alone. Changes memory, not the loss."""
    model: ModelConfig
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig
    validation: ValidationConfig | None = None
    reward: RewardConfig = RewardConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    filter: FilterConfig = FilterConfig()
    overlong: OverlongConfig = OverlongConfig()
    reset: ResetConfig = ResetConfig()
    guard: GuardConfig = GuardConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    stages: tuple[Stage, ...] = ()
    """Later stages win over earlier ones."""

    @model_validator(mode="after")
    def _kl_is_measured(self) -> Self:
        if self.loss.kl_coef == 0 and (self.reset.kl_ceiling is not None or self.guard.kl_ref != Band()):
            raise ValueError("reset.kl_ceiling and guard.kl_ref need a loss.kl_coef above 0: else no KL is measured")
        return self

    @model_validator(mode="after")
    def _scores_are_there(self) -> Self:
        if self.validation is None and (self.reset.plateau_evals is not None or self.reset.source == "best"):
            raise ValueError("reset.plateau_evals and reset.source = best need a [validation]")
        return self

    @model_validator(mode="after")
    def _ramp_fits(self) -> Self:
        if self.overlong.rule == "soft" and self.overlong.soft_cache_tokens > self.sampling.max_tokens:
            raise ValueError("overlong.soft_cache_tokens must not exceed sampling.max_tokens")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        """Each alone, and on top of those before it."""
        merged = base = self._without_stages()
        for stage in self.stages:
            merged = with_settings(merged, stage.set)
            for source in (with_settings(base, stage.set), merged):
                try:
                    RunConfig.model_validate(source)
                except ValidationError as error:
                    raise ValueError(f"stage {stage.name}: {first_of(error)}") from error
        return self

    def _without_stages(self) -> dict[str, Any]:
        """The keys that were given, all but the stages."""
        return self.model_dump(exclude_unset=True, exclude={"stages"})

    def as_toml(self) -> dict[str, Any]:
        """Every key with its value, `--set` and defaults included; unset ones, which TOML cannot say, are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def at(self, step: int, era: int) -> "RunConfig":
        """The config of one step: this one with the stages that have begun."""
        begun = [stage for stage in self.stages if stage.has_begun(step, era)]
        source = self._without_stages()
        for stage in begun:
            source = with_settings(source, stage.set)
        return RunConfig.model_validate(source) if begun else self

    def derived(self) -> dict[str, str]:
        """What follows from the config, printed at the start of a run, never configured."""
        completions = self.prompts_per_step * self.group_size
        first_prompts = math.ceil(self.prompts_per_step * self.filter.oversample)
        carries = self.filter.oversample > 1 and self.filter.max_carry_steps > 0
        weighed = f"weighed by {self.loss.correction}" if self.loss.correction != "none" else "not weighed for it"
        return {
            "completions a step": f"{completions:,} = {self.prompts_per_step} prompts x {self.group_size}",
            "completions an update": f"{completions // self.updates_per_step:,}",
            "optimizer steps": f"{self.num_steps * self.updates_per_step:,}",
            "prompts a step": f"{first_prompts:,} at first, at most {first_prompts * self.filter.max_rounds:,}",
            "surplus groups": f"carried over, a step old, {weighed}" if carries else "none is trained on",
        }


def load_config(path: Path, settings: Sequence[str] = ()) -> RunConfig:
    """Read TOML and apply `--set key=value`. Raises ConfigError with one line."""
    try:
        source: dict[str, Any] = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return RunConfig.model_validate(with_settings(source, dict(map(parse_setting, settings))))
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_of(error)}") from error


def first_of(error: ValidationError) -> str:
    """Its first complaint, in one line."""
    first = error.errors()[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}{more}"
