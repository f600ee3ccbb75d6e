"""What becomes of long completions: the reward that advantages are made of, and whether they are trained on."""

import math
from dataclasses import replace

from trainer.config import OverlongConfig
from trainer.types import Rollout, RolloutGroup


def soft_penalty(num_tokens: int, max_tokens: int, cache_tokens: int) -> float:
    """DAPO's ramp (arXiv 2503.14476, eq. 13), in [-1, 0]: 0 up to L_max - L_cache, -1 at L_max, linear between.

    P(y) = ((L_max - L_cache) - |y|) / L_cache
    """
    return max(-1.0, min(0.0, (max_tokens - cache_tokens - num_tokens) / cache_tokens))


def cosine_term(num_tokens: int, max_tokens: int, low: float, high: float) -> float:
    """ProRL v2's length term: eta(t) = eta_min + (eta_max - eta_min) (1 + cos(pi t / T)) / 2, T the token limit."""
    return low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * min(num_tokens, max_tokens) / max_tokens))


def cosine_is_on(step: int, config: OverlongConfig) -> bool:
    """v2 switches the term on a cycle: `cosine_on_steps` with it, then `cosine_off_steps` without, from step 1."""
    cycle = config.cosine_on_steps + config.cosine_off_steps
    return config.cosine_coef > 0 and (step - 1) % cycle < config.cosine_on_steps


def shaped_reward(
    reward: float, num_tokens: int, truncated: bool, max_tokens: int, step: int, config: OverlongConfig
) -> float:
    """The reward after the overlong rule; may leave [0, 1] with `soft` and with the cosine term.

    The cosine term is weighted by the reward, R (1 + coef * eta): for binary rewards the published R_correct + coef *
    eta on correct completions, and nothing for giving up early. That wrong ones get none is our reading.
    """
    if config.rule == "zero" and truncated:
        return 0.0
    shaped = reward
    if cosine_is_on(step, config):
        shaped += (
            reward * config.cosine_coef * cosine_term(num_tokens, max_tokens, config.cosine_min, config.cosine_max)
        )
    if config.rule == "soft":
        shaped += config.soft_penalty * soft_penalty(num_tokens, max_tokens, config.soft_cache_tokens)
    return shaped


def apply_overlong(group: RolloutGroup, max_tokens: int, step: int, config: OverlongConfig) -> RolloutGroup:
    """The group with `shaped_reward` and `in_loss` set on every rollout; an unknown reward stays unknown.

    `max_tokens` is the completion limit. Dynamic sampling looks at the unshaped reward, as NeMo-RL does.
    """

    def shape(rollout: Rollout) -> Rollout:
        shaped = rollout.reward
        if shaped is not None:
            shaped = shaped_reward(shaped, len(rollout.token_ids), rollout.truncated, max_tokens, step, config)
        return replace(rollout, shaped_reward=shaped, in_loss=not (config.rule == "mask" and rollout.truncated))

    return replace(group, rollouts=tuple(map(shape, group.rollouts)))
