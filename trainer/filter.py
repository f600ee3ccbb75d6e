"""Dynamic sampling: which groups are trained on, and the bookkeeping of refills, as a state that functions replace.

    refill = start_refill(num_wanted, carry, policy_version, config)
    while (count := num_to_ask(refill, config)) > 0:
        refill = add_round(refill, <count new groups, rolled out and judged>, config)
    groups, carry = finish(refill, config)

Groups enter in the order in which their prompts were drawn (`RolloutGroup.index`), never in order of arrival, so that
what is trained on does not depend on which grader was quicker. Nothing here raises: when the rounds are used up the
step trains on what there is, if need be on nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from trainer.advantage import Rewards, known
from trainer.config import FilterConfig
from trainer.types import RolloutGroup


class Fate(StrEnum):
    KEPT = "kept"
    TOO_FEW_KNOWN = "too_few_known"
    ZERO_SPREAD = "zero_spread"


def fate_of(rewards: Rewards, config: FilterConfig) -> Fate:
    """Whether a group with these unshaped rewards is trained on.

    DAPO (arXiv 2503.14476, section 3.2) drops groups with accuracy 0 or 1; for rewards that are fractions we drop
    those without any spread, as NeMo-RL does: exactly the groups whose advantages are all zero.
    """
    values = known(rewards)
    if len(values) < config.min_known:
        return Fate.TOO_FEW_KNOWN
    if config.dynamic_sampling and min(values) == max(values):
        return Fate.ZERO_SPREAD
    return Fate.KEPT


def group_fate(group: RolloutGroup, config: FilterConfig) -> Fate:
    return fate_of([rollout.reward for rollout in group.rollouts], config)


@dataclass(frozen=True)
class Refill:
    """Where a step's refilling stands.

    Refill(num_wanted=4, accepted=(g0, g2, g3), num_rounds=1, num_zero_spread=1) still lacks one group.
    """

    num_wanted: int
    """Groups a full step trains on."""
    accepted: tuple[RolloutGroup, ...] = ()
    """In prompt order, carried ones first; may be more than wanted."""
    num_rounds: int = 0
    num_carried: int = 0
    """Of the accepted, how many came from the carry buffer."""
    num_stale: int = 0
    """Carried groups dropped for their age."""
    num_zero_spread: int = 0
    num_too_few_known: int = 0

    @property
    def num_judged(self) -> int:
        """New groups of this step, kept or not."""
        return len(self.accepted) - self.num_carried + self.num_zero_spread + self.num_too_few_known

    @property
    def kept_group_frac(self) -> float:
        """Share of the judged groups that were kept; 1 where none was judged."""
        return (len(self.accepted) - self.num_carried) / self.num_judged if self.num_judged else 1.0

    @property
    def fill_frac(self) -> float:
        """How much of a full step there is, in [0, 1]; below 1 is starvation."""
        return min(1.0, len(self.accepted) / self.num_wanted)


def in_prompt_order(groups: Iterable[RolloutGroup]) -> tuple[RolloutGroup, ...]:
    return tuple(sorted(groups, key=lambda group: group.index))


def age_of(group: RolloutGroup, policy_version: int) -> int:
    """Weight syncs, one a step, since the group's oldest rollout was sampled."""
    return policy_version - min(rollout.policy_version for rollout in group.rollouts)


def start_refill(num_wanted: int, carry: Sequence[RolloutGroup], policy_version: int, config: FilterConfig) -> Refill:
    """A step's beginning: what was carried over counts first, unless it is too old."""
    fresh = [group for group in carry if age_of(group, policy_version) <= config.max_carry_steps]
    return Refill(
        num_wanted=num_wanted,
        accepted=in_prompt_order(fresh),
        num_carried=len(fresh),
        num_stale=len(carry) - len(fresh),
    )


def num_to_ask(refill: Refill, config: FilterConfig) -> int:
    """Prompts to draw for the next round; 0 when the step is full or its rounds are used up."""
    missing = refill.num_wanted - len(refill.accepted)
    if missing <= 0 or refill.num_rounds >= config.max_rounds:
        return 0
    return math.ceil(missing * config.oversample)


def add_round(refill: Refill, groups: Iterable[RolloutGroup], config: FilterConfig) -> Refill:
    """The state after one round's groups, in whatever order they arrived."""
    judged = [(group, group_fate(group, config)) for group in in_prompt_order(groups)]
    fates = [fate for _, fate in judged]
    return replace(
        refill,
        accepted=refill.accepted + tuple(group for group, fate in judged if fate is Fate.KEPT),
        num_rounds=refill.num_rounds + 1,
        num_zero_spread=refill.num_zero_spread + fates.count(Fate.ZERO_SPREAD),
        num_too_few_known=refill.num_too_few_known + fates.count(Fate.TOO_FEW_KNOWN),
    )


def finish(refill: Refill, config: FilterConfig) -> tuple[tuple[RolloutGroup, ...], tuple[RolloutGroup, ...]]:
    """The groups to train on, at most `num_wanted`, and those to carry to the next step."""
    surplus = refill.accepted[refill.num_wanted :]
    return refill.accepted[: refill.num_wanted], surplus if config.max_carry_steps > 0 else ()
