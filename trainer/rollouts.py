"""One step's groups: prompts are drawn, rolled out and judged, in rounds, until enough can be trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.engine.protocol import Engine, RolloutRequest, Sampling, sampling_seed
from trainer.filter import Refill, add_round, finish, num_to_ask, start_refill
from trainer.overlong import apply_overlong
from trainer.parallel import ALONE, Ranks
from trainer.prompts import PromptSource
from trainer.reward import RewardStats, Scorer
from trainer.run_config import RunConfig
from trainer.state import RunState
from trainer.types import Prompt, RolloutGroup


@dataclass(frozen=True)
class Collected:
    """What a step has to train on and what it saw."""

    groups: tuple[RolloutGroup, ...]
    """To train on, shaped rewards set."""
    carry: tuple[RolloutGroup, ...]
    """For the next step."""
    judged: tuple[RolloutGroup, ...]
    """Every group of this step, kept or not, in prompt order; metrics are made of these."""
    refill: Refill
    rewards: RewardStats
    num_prompts: int
    """Prompts drawn since the run began."""


def roll_out(
    engine: Engine,
    scorer: Scorer,
    requests: Sequence[RolloutRequest],
    sampling: Sampling,
    step: int,
    stats: RewardStats,
    ranks: Ranks,
) -> list[RolloutGroup]:
    """The judged groups of all requests, in prompt order, on every rank; each asks its own engine for its share."""
    own = RewardStats()
    groups = scorer.score(engine.rollout(requests[ranks.rank :: ranks.size], sampling), step, own)
    shares = ranks.gather((groups, own))
    stats.add([share for _, share in shares])
    return sorted((group for groups, _ in shares for group in groups), key=lambda group: group.index)


class Collector:
    """Draws, rolls out, scores."""

    def __init__(
        self,
        prompts: PromptSource,
        prompt_ids: dict[str, tuple[int, ...]],
        engine: Engine,
        scorer: Scorer,
        ranks: Ranks = ALONE,
    ) -> None:
        self.prompts = prompts
        self._prompt_ids = prompt_ids
        self._engine = engine
        self._scorer = scorer
        self._ranks = ranks

    def collect(self, step: int, state: RunState, config: RunConfig) -> Collected:
        """Groups of one step; the prompt source moves on, `state` is only read."""
        refill = start_refill(config.prompts_per_step, state.carry, state.step, config.filter)
        judged: list[RolloutGroup] = []
        rewards = RewardStats()
        num_prompts = state.num_prompts
        visits: Counter[str] = Counter()
        sampling = Sampling(config.sampling.temperature, config.sampling.max_tokens)
        while (count := num_to_ask(refill, config.filter)) > 0:
            drawn = self.prompts.next_batch(count, config.data.shares, config.data.retire_after)
            # A rollback must not sample its way into the same trouble again.
            seed_of = f"{config.seed}+{state.guards.num_rollbacks}"
            requests = self.requests(drawn, num_prompts, seed_of, step, config.group_size, visits)
            groups = roll_out(self._engine, self._scorer, requests, sampling, step, rewards, self._ranks)
            groups = [apply_overlong(g, config.sampling.max_tokens, step, config.overlong) for g in groups]
            for group in groups:
                self.prompts.record(group.prompt.id, all(r.reward == 1.0 for r in group.rollouts))
            judged += groups
            num_prompts += count
            refill = add_round(refill, groups, config.filter)
            if rewards.unknown_frac > config.reward.max_error_frac:
                break  # the step will not be trained on: no more rounds for a service that is away
        kept, carry = finish(refill, config.filter)
        return Collected(kept, carry, tuple(judged), refill, rewards, num_prompts)

    def requests(
        self,
        prompts: Sequence[Prompt],
        first_index: int,
        seed: str,
        step: int,
        group_size: int,
        visits: Counter[str],
    ) -> list[RolloutRequest]:
        """Requests whose seeds follow from run seed, step, prompt and sample.

        `visits` counts the step's groups of each prompt: one that comes again goes on counting its samples, else few
        prompts would give the same completions over and over.
        """
        requests = []
        for i, prompt in enumerate(prompts):
            first = visits[prompt.id] * group_size
            visits[prompt.id] += 1
            seeds = tuple(sampling_seed(seed, step, prompt.id, first + k) for k in range(group_size))
            requests.append(RolloutRequest(first_index + i, prompt, self._prompt_ids[prompt.id], seeds))
        return requests
