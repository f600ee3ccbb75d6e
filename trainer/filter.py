"""Dynamic sampling: which groups are trained on, and the bookkeeping of refills, as a state that functions replace.

    refill = start_refill(num_wanted, carry, policy_version, first_index, config)
    while not refill.is_full:
        refill = asked(refill, num_to_ask(refill, config))
        refill = add(refill, <a group, rolled out and judged>, config)
    groups, carry = refill.accepted, ...

Groups are decided in the order in which their prompts were drawn (`RolloutGroup.index`), never in order of arrival, so
that what is trained on does not depend on which grader was quicker, nor on which completions were short. Nothing here
raises: when no more may be asked for the step trains on what there is, if need be on nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trainer.advantage import MIN_KNOWN, Rewards, known
from trainer.config import FilterConfig
from trainer.types import Prompt, RolloutGroup


def is_kept(rewards: Rewards, config: FilterConfig) -> bool:
    """Whether a group with these unshaped rewards is trained on.

    DAPO (arXiv 2503.14476, section 3.2) drops groups with accuracy 0 or 1; for rewards that are fractions we drop
    those without any spread, as NeMo-RL does: exactly the groups whose advantages are all zero.
    """
    values = known(rewards)
    return len(values) >= MIN_KNOWN and (not config.dynamic_sampling or min(values) < max(values))


def group_is_kept(group: RolloutGroup, config: FilterConfig) -> bool:
    return is_kept([rollout.reward for rollout in group.rollouts], config)


@dataclass(frozen=True)
class Refill:
    """Where a step's refilling stands.

    Refill(num_wanted=4, next_index=3, num_asked=5, decided=(g0, g1, g2), accepted=(g0, g2), ahead=(g4,)) waits for g3.
    """

    num_wanted: int
    """Groups a full step trains on."""
    next_index: int
    """Index of the group to be decided next."""
    num_asked: int = 0
    """Groups asked for in this step, or carried into it."""
    num_carried: int = 0
    decided: tuple[RolloutGroup, ...] = ()
    """In prompt order, kept or not; what comes behind a full step is decided in the next one."""
    accepted: tuple[RolloutGroup, ...] = ()
    """Those of the decided ones to train on, at most `num_wanted`."""
    ahead: tuple[RolloutGroup, ...] = ()
    """Judged, but not yet their turn."""

    @property
    def is_full(self) -> bool:
        return len(self.accepted) >= self.num_wanted

    @property
    def num_in_flight(self) -> int:
        """Groups asked for that nothing is known of."""
        return self.num_asked - len(self.decided) - len(self.ahead)

    @property
    def fill_frac(self) -> float:
        """How much of a full step there is, in [0, 1]; below 1 is starvation."""
        return len(self.accepted) / self.num_wanted


def in_prompt_order(groups: Iterable[RolloutGroup]) -> tuple[RolloutGroup, ...]:
    return tuple(sorted(groups, key=lambda group: group.index))


def age_of(group: RolloutGroup, policy_version: int) -> int:
    """Weight syncs, one a step, since the group's oldest rollout was sampled; 0 without any."""
    return policy_version - min((rollout.policy_version for rollout in group.rollouts), default=policy_version)


def given_up(index: int, prompt: Prompt) -> RolloutGroup:
    """A group without rollouts: its prompt is asked again, in the place that it has in the order of prompts."""
    return RolloutGroup(index, prompt, ())


def start_refill(
    num_wanted: int, carry: Sequence[RolloutGroup], policy_version: int, num_drawn: int, config: FilterConfig
) -> tuple[Refill, tuple[RolloutGroup, ...]]:
    """A step's beginning, and what was carried into it, in prompt order; it comes first. What is too old is given up.

    `num_drawn`: prompts drawn so far, so the index of the next.
    """
    carried = in_prompt_order(
        group if age_of(group, policy_version) <= config.max_carry_steps else given_up(group.index, group.prompt)
        for group in carry
    )
    refill = Refill(
        num_wanted=num_wanted,
        next_index=carried[0].index if carried else num_drawn,
        num_asked=len(carried),
        num_carried=len(carried),
    )
    return refill, carried


def num_to_ask(refill: Refill, config: FilterConfig) -> int:
    """Prompts to draw now: `oversample` for every group still missing, less those that are on their way.

    A step asks for at most `max_rounds` times what it would ask for at first.
    """
    missing = refill.num_wanted - len(refill.accepted) - sum(group_is_kept(g, config) for g in refill.ahead)
    at_most = config.max_rounds * math.ceil(refill.num_wanted * config.oversample) + refill.num_carried
    wanted = math.ceil(missing * config.oversample) - refill.num_in_flight if missing > 0 else 0
    return max(0, min(wanted, at_most - refill.num_asked))


def asked(refill: Refill, count: int) -> Refill:
    return replace(refill, num_asked=refill.num_asked + count)


def add(refill: Refill, group: RolloutGroup, config: FilterConfig) -> Refill:
    """The state with one more judged group; it and those that waited for it are decided as far as their turn comes."""
    refill = replace(refill, ahead=in_prompt_order([*refill.ahead, group]))
    while refill.ahead and refill.ahead[0].index == refill.next_index and not refill.is_full:
        first = refill.ahead[0]
        refill = replace(
            refill,
            next_index=refill.next_index + 1,
            decided=(*refill.decided, first),
            accepted=(*refill.accepted, first) if group_is_kept(first, config) else refill.accepted,
            ahead=refill.ahead[1:],
        )
    return refill
