"""One step's groups: prompts are drawn, rolled out and judged, and drawn again for those that cannot be trained on.

All of it overlaps: while the engine generates, finished groups are judged, and for those that are dropped other
prompts go to the engine. Yet nothing depends on how quick a grader is. A verdict is taken at a fixed place in the order
in which groups are finished, and waited for there; and groups are decided in the order of their prompts.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from trainer.engine.protocol import Engine, RolloutRequest, Sampling, sampling_seed
from trainer.filter import Refill, add, asked, given_up, in_prompt_order, num_to_ask, start_refill
from trainer.overlong import apply_overlong
from trainer.parallel import ALONE, Ranks
from trainer.prompts import PromptSource
from trainer.reward import RewardStats, Scorer, Scoring
from trainer.run_config import RunConfig
from trainer.state import RunState
from trainer.types import Prompt, RolloutGroup


@dataclass(frozen=True)
class Collected:
    """What a step has to train on and what it saw."""

    refill: Refill
    """With the groups to train on, shaped rewards set, and all that were decided; metrics are made of these."""
    carry: tuple[RolloutGroup, ...]
    """For the next step; those without verdicts are being judged, those without rollouts are asked again."""
    rewards: RewardStats
    num_prompts: int
    """Prompts drawn since the run began."""
    num_tokens: int
    """Completion tokens sampled in the step."""


def roll_out(
    engine: Engine,
    scorer: Scorer,
    requests: Sequence[RolloutRequest],
    sampling: Sampling,
    step: int,
    stats: RewardStats,
    ranks: Ranks,
    unjudged: Sequence[RolloutGroup] = (),
) -> list[RolloutGroup]:
    """The judged groups of all requests, in prompt order, on every rank; each asks its own engine for its share.

    With them the groups `unjudged`, which were rolled out before.
    """
    own, share = RewardStats(), slice(ranks.rank, None, ranks.size)
    groups = scorer.score(chain(unjudged[share], engine.rollout(requests[share], sampling)), step, own)
    shares = ranks.gather((groups, own))
    stats.add([share for _, share in shares])
    return list(in_prompt_order(group for groups, _ in shares for group in groups))


class Collector:
    """Draws, rolls out, scores."""

    def __init__(
        self,
        prompts: PromptSource,
        engine: Engine,
        scorer: Scorer,
        ranks: Ranks = ALONE,
    ) -> None:
        self.prompts = prompts
        self.engine = engine
        self.scorer = scorer
        self.ranks = ranks
        self.under_way: dict[int, Scoring] = {}
        """By index, carried groups that were sent already; a run that was killed sends them again."""

    def collect(self, step: int, state: RunState, config: RunConfig) -> Collected:
        """Groups of one step; the prompt source moves on, `state` is only read."""
        self.scorer.begin_step()
        collection = _Collection(self, step, state, config)
        if self.ranks.size == 1:
            collection.stream()
        else:
            collection.rounds()
        for group in collection.refill.decided:
            rewards = [rollout.reward for rollout in group.rollouts]
            if (solved := set(rewards) <= {1.0, None}) and None in rewards:
                continue  # nobody knows
            self.prompts.record(group.prompt.id, solved)
        self.under_way = {scoring.group.index: scoring for scoring in collection.sent}
        unfinished = [given_up(request.index, request.prompt) for request in collection.unfinished.values()]
        carry = in_prompt_order(
            [*collection.refill.ahead, *(scoring.group for scoring in collection.sent), *unfinished]
        )
        return Collected(
            collection.refill,
            carry if config.filter.max_carry_steps else (),
            collection.rewards,
            collection.num_prompts,
            collection.num_tokens,
        )


class _Collection:
    """A step in the making."""

    def __init__(self, collector: Collector, step: int, state: RunState, config: RunConfig) -> None:
        self._collector = collector
        self._step = step
        self._config = config
        self._sampling = Sampling(config.sampling.temperature, config.sampling.max_tokens)
        # A rollback must not sample its way into the same trouble again.
        self._seed = f"{config.seed}+{state.guards.num_rollbacks}"
        self._visits: Counter[str] = Counter()
        """The step's groups of each prompt: one that comes again goes on counting its samples."""
        self._requests: deque[RolloutRequest] = deque()
        """Not yet with the engine."""
        self.unfinished: dict[int, RolloutRequest] = {}
        """By index, what was asked in this step and is not finished."""
        self._num_generating = 0
        self.sent: deque[Scoring] = deque()
        """Groups whose verdicts were not taken yet, in the order in which they were finished."""
        self.num_prompts = state.num_prompts
        self.rewards = RewardStats()
        self.num_tokens = 0
        self.refill, carried = start_refill(
            config.prompts_per_step, state.carry, state.step, state.num_prompts, config.filter
        )
        self._unjudged = [group for group in carried if group.rollouts and group.rollouts[0].verdict is None]
        for group in carried:
            if not group.rollouts:
                self._request(group.index, group.prompt)
            elif group.rollouts[0].verdict is not None:
                self._decide(group)

    def stream(self) -> None:
        """Generate, judge and refill at the same time, until the step is full: no surplus is waited for.

        A completion that takes long holds the step up where its prompt's turn comes before the last one needed.
        """
        begun = time.monotonic()
        for group in self._unjudged:
            self._send(group)
        self._ask()
        with closing(self._collector.engine.rollout(self._next_requests(), self._sampling)) as groups:
            for group in groups:
                self._num_generating -= 1
                self._count_tokens(group)
                self._send(group)
                if len(self.sent) > self._config.reward.max_concurrency:
                    self._take_verdict()
                if self.refill.is_full:
                    break
        self.rewards.generate_s = time.monotonic() - begun - self.rewards.wait_s

    def rounds(self) -> None:
        """Several ranks refill in rounds: all have to know all verdicts before they draw the same prompts."""
        collector, unjudged = self._collector, self._unjudged
        self._ask()
        while self._requests or unjudged:
            requests = list(self._requests)
            self._requests.clear()
            groups = roll_out(
                collector.engine, collector.scorer, requests, self._sampling, self._step, self.rewards,
                collector.ranks, unjudged,
            )  # fmt: skip
            for group in groups:
                self._decide(group)
                self._count_tokens(group)
            unjudged = []
            self._ask()

    def _next_requests(self) -> Iterator[RolloutRequest | None]:
        """What the engine asks for when it has room; with nothing left to generate, verdicts say what comes next."""
        while not self.refill.is_full:
            if self._requests:
                self._num_generating += 1
                yield self._requests.popleft()
            elif self._num_generating:
                yield None
            elif self.sent:
                self._take_verdict()
            else:
                return

    def _count_tokens(self, group: RolloutGroup) -> None:
        if self.unfinished.pop(group.index, None) is not None:
            self.num_tokens += sum(len(rollout.token_ids) for rollout in group.rollouts)

    def _send(self, group: RolloutGroup) -> None:
        scoring = self._collector.under_way.get(group.index)
        if scoring is None or scoring.group != group:
            scoring = self._collector.scorer.submit(group, self._step)
        self.sent.append(scoring)

    def _take_verdict(self) -> None:
        """Wait for the verdicts of the group that was finished longest ago."""
        self._decide(self._collector.scorer.result(self.sent.popleft(), self.rewards))
        self._ask()

    def _decide(self, group: RolloutGroup) -> None:
        config = self._config
        shaped = apply_overlong(group, config.sampling.max_tokens, self._step, config.overlong)
        self.refill = add(self.refill, shaped, config.filter)

    def _ask(self) -> None:
        """Draw the prompts that are still needed."""
        config, prompts = self._config, self._collector.prompts
        if self.rewards.num_unknown > config.reward.max_error_frac * self.refill.num_asked * config.group_size:
            return  # the step will not be trained on: nothing more for a service that is away
        count = num_to_ask(self.refill, config.filter)
        for prompt in prompts.next_batch(count, config.data.shares, config.data.retire_after):
            self._request(self.num_prompts, prompt)
            self.num_prompts += 1
        self.refill = asked(self.refill, count)

    def _request(self, index: int, prompt: Prompt) -> None:
        size = self._config.group_size
        first = self._visits[prompt.id] * size
        self._visits[prompt.id] += 1
        seeds = tuple(sampling_seed(self._seed, self._step, prompt.id, first + k) for k in range(size))
        self.unfinished[index] = request = RolloutRequest(index, prompt, seeds)
        self._requests.append(request)
