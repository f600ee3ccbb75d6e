"""What a run is told: frozen sections, unknown keys refused, one line a field. Defaults are ProRL v1's setting.

Sources named below: ProRL (arXiv 2505.24864), ProRL v2 (NVIDIA's write-up of 2025-08), DAPO (arXiv 2503.14476),
Dr. GRPO (arXiv 2503.20783), NeMo-RL (its published ProRL v2 recipe). "Our choice" where they are silent.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class AdvantageConfig(Section):
    """How rewards become advantages."""

    estimator: Literal["grpo", "reinforce_baseline", "dr_grpo"] = "grpo"
    """`grpo`: group mean and std (ProRL v1); `reinforce_baseline`: group mean, batch std (v2); `dr_grpo`: mean only."""


class LossConfig(Section):
    """The clipped policy loss, its KL term and the correction for two engines that disagree."""

    clip_low: Fraction = 0.2
    """Ratios below 1 - clip_low stop counting for negative advantages (ProRL 0.2)."""
    clip_high: Positive = 0.4
    """Ratios above 1 + clip_high stop counting for positive advantages (ProRL 0.4, v2 0.27, DAPO 0.28)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Bounds the loss of negative advantages at dual_clip * |A| (elsewhere 3 to 20); none in ProRL."""
    kl_coef: NotNegative = 1e-4
    """Weight of the KL to the reference policy, in the loss; 0 spares the reference's forward pass (ProRL 1e-4)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """k3 for v1 (its framework's usual one), k2 for v2; k1 has no useful gradient and is there to compare."""
    kl_unbiased: bool = False
    """Multiply the KL estimate by policy/old, which makes k3's gradient that of the KL (DeepSeek-V3.2, trl 1.16)."""
    normalizer: Literal["token", "sequence", "constant"] = "token"
    """`token`: mean over all tokens (DAPO, ProRL); `sequence`: mean of sequence means (GRPO); `constant` (Dr. GRPO)."""
    constant_length: Count | None = None
    """Tokens a sequence is divided by with `constant`: the completion limit in Dr. GRPO."""
    correction: Literal["none", "tis", "icepop"] = "none"
    """Weight where sampler and trainer disagree on a token: truncated at a cap, or zero outside a band (v2)."""
    tis_cap: Positive = 2.0
    """Largest weight with `tis` (2 is the usual one)."""
    icepop_low: NotNegative = 0.5
    """Tokens whose ratio trainer/sampler is below this leave the policy term with `icepop` (NeMo-RL 0.5)."""
    icepop_high: Positive = 5.0
    """The same above this (NeMo-RL 5.0)."""
    sequence_mask_low: Positive | None = None
    """Sequences whose geometric mean ratio trainer/sampler is below this leave the policy term (NeMo-RL 0.999)."""
    sequence_mask_high: Positive | None = None
    """The same above this (NeMo-RL 1.002)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.normalizer == "constant" and self.constant_length is None:
            raise ValueError("normalizer `constant` needs constant_length")
        if self.icepop_low >= self.icepop_high:
            raise ValueError("icepop_low must be below icepop_high")
        return self


class FilterConfig(Section):
    """Which groups are trained on, and how missing ones are refilled."""

    dynamic_sampling: bool = True
    """Drop groups whose known rewards are all equal: they carry no signal (DAPO, ProRL)."""
    max_rounds: Count = 10
    """A step asks for this many times its first prompts; then it trains on what there is (NeMo-RL 10 rounds)."""
    oversample: Annotated[float, Field(ge=1)] = 1.0
    """Prompts on their way over prompts missing; above 1 the surplus is carried over (NeMo-RL 1.5, dropped)."""
    max_carry_steps: Annotated[int, Field(ge=0)] = 1
    """Prompts of carried groups older than this many steps are asked again; 0 carries nothing. Carried ones are off the
    policy by as much, which `loss.correction` weighs. Our choice."""


class OverlongConfig(Section):
    """What becomes of completions that ran into the token limit, and v2's length term."""

    rule: Literal["none", "mask", "zero", "soft"] = "none"
    """`mask`: out of the loss (DAPO); `zero`: reward 0, "stop properly" (v2's recipe); `soft`: DAPO's ramp."""
    soft_cache_tokens: Count = 4096
    """Length of the ramp before the token limit with `soft` (DAPO 4096)."""
    soft_penalty: Positive = 1.0
    """Taken from the reward at the end of the ramp (DAPO 1)."""
    cosine_coef: NotNegative = 0.0
    """Weight of the cosine length term; 0 is off (v2 has it, its weight is not published)."""
    cosine_min: float = 0.0
    """Term of a completion at the token limit (not published; our choice)."""
    cosine_max: float = 1.0
    """Term of an empty completion (not published; our choice)."""
    cosine_on_steps: Count = 100
    """Steps of a cycle with the term (v2: 100)."""
    cosine_off_steps: Annotated[int, Field(ge=0)] = 500
    """Steps of a cycle without it, after those with it (v2: 500)."""


class ResetConfig(Section):
    """When an era ends, and what the next one starts from. Without a trigger only `touch RUN_DIR/RESET` ends one."""

    every_steps: Count | None = None
    """Reset this many steps after the last one (v2: 200 to 500)."""
    plateau_evals: Annotated[int, Field(ge=3)] | None = None
    """Reset when this many validations of the era show no significant rise (v1 judged by eye)."""
    plateau_z: Positive = 1.645
    """Standard errors by which the rise must exceed zero to count (one-sided 5%). Our choice."""
    kl_ceiling: Positive | None = None
    """Reset when the KL to the reference stays above this (v2: "KL spike")."""
    entropy_floor: Positive | None = None
    """Reset when the entropy stays below this."""
    patience_steps: Count = 5
    """Steps in a row beyond ceiling or floor that count. Our choice: one step is noise."""
    min_era_steps: Annotated[int, Field(ge=0)] = 20
    """No reset by plateau, ceiling or floor before an era is this old. Our choice."""
    source: Literal["current", "best"] = "current"
    """The next reference: the policy as it is (v1), or the best validated checkpoint of the era (v2's model card)."""
    optimizer: Literal["fresh", "keep"] = "fresh"
    """Optimizer state after a reset: initialised again (v1) or kept (v2)."""


class Band(Section):
    """Where a metric may be; an open side is not watched. NaN and infinity are outside of every band."""

    min: float | None = None
    """Smallest value that is healthy."""
    max: float | None = None
    """Largest value that is healthy."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min must not exceed max")
        return self


class GuardConfig(Section):
    """Bands of health; a metric outside of its own for `patience_steps` steps in a row stops the run or rolls back."""

    entropy: Band = Band()
    """Mean entropy of the policy, nats a token."""
    kl_ref: Band = Band()
    """KL to the reference, nats a token."""
    grad_norm: Band = Band()
    """Gradient norm before clipping."""
    logprob_mismatch_kl: Band = Band(max=0.1)
    """KL between sampler and trainer, nats a token; healthy runs stay below 0.01."""
    reward_error_frac: Band = Band(max=0.05)
    """Share of completions that could not be judged."""
    patience_steps: Count = 5
    """Steps in a row outside of the band before the guard acts."""
    action: Literal["stop", "rollback"] = "stop"
    """Stop with one clear line, or go back to the last good checkpoint."""
    max_rollbacks: Count = 3
    """Rollbacks of a run before the guard stops it: what keeps coming back is not bad luck."""


class SamplingConfig(Section):
    """How completions are drawn in training."""

    temperature: Positive = 1.2
    """Log-probabilities of policy and reference are taken at it too (ProRL 1.2)."""
    max_prompt_tokens: Count = 1024
    """Longer prompts are left out of the data, and counted."""
    max_tokens: Count = 8192
    """Completion tokens at most (ProRL: a context of 8192)."""


class OptimizerConfig(Section):
    """AdamW with a constant learning rate after a linear warm-up that begins again with every era."""

    learning_rate: Positive = 2e-6
    """ProRL 2e-6."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Training steps until the full rate, in each era (not published; our choice)."""
    beta1: Fraction = 0.9
    """Not published; our choice, as beta2, eps and weight_decay."""
    beta2: Fraction = 0.95
    """Shorter memory than 0.999: an era is a few hundred steps."""
    eps: Positive = 1e-8
    """Added to the root of the second moment."""
    weight_decay: NotNegative = 0.0
    """Decoupled."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this L2 norm, over all parameters."""


class CheckpointConfig(Section):
    """What is kept of the run."""

    every_steps: Count = 10
    """A reset and the last step are always saved."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Checkpoints kept; two, so that a damaged one is survived. References of eras are always kept."""
    rollouts_every_steps: Count = 1
    """Every so many steps the judged completions are written."""
