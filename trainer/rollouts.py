"""One step's groups: prompts are drawn, rolled out and judged, and drawn again for those that cannot be trained on.

All of it overlaps: while the engine generates, finished groups are judged, and for those that are dropped other
prompts go to the engine. All ranks read all verdicts in one order, and so draw the same prompts; and groups are decided
in the order of their prompts, whoever was quick. With an engine that is repeatable, verdicts are read at fixed places,
and a run is the same again to the last bit; with others as they come, and nobody waits before the step is full.
"""

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from trainer.engine.protocol import Engine, RolloutRequest, Sampling, sampling_seed
from trainer.filter import Refill, add, asked, given_up, in_prompt_order, num_to_ask, start_refill
from trainer.overlong import apply_overlong
from trainer.parallel import ALONE, RankLog, Ranks
from trainer.prompts import PromptSource
from trainer.reward import RewardStats, Scorer, Scoring
from trainer.run_config import RunConfig
from trainer.state import RunState
from trainer.types import Prompt, RolloutGroup

PATIENCE = 2
"""Verdicts may take this many times as long as their group without an engine that stands still for them."""


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
) -> list[RolloutGroup]:
    """The judged groups of all requests, in prompt order, on every rank; each asks its own engine for its share."""
    own = RewardStats()
    groups = scorer.score(engine.rollout(requests[ranks.rank :: ranks.size], sampling), step, own)
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
        collection.run()
        collected = collection.result()
        for group in collected.refill.decided:
            rewards = [rollout.reward for rollout in group.rollouts]
            if (solved := set(rewards) <= {1.0, None}) and None in rewards:
                continue  # nobody knows
            self.prompts.record(group.prompt.id, solved)
        return collected


@dataclass
class _Share:
    """What one rank did in a step."""

    rewards: RewardStats
    groups: dict[int, RolloutGroup]
    """By index, finished here; with verdicts if these were read."""
    num_tokens: int = 0


class _Done(Exception):
    """A step has all it needs."""


class _Collection:
    """A step in the making."""

    def __init__(self, collector: Collector, step: int, state: RunState, config: RunConfig) -> None:
        self._collector = collector
        self._step = step
        self._config = config
        # A rollback must not sample its way into the same trouble again.
        self._seed = f"{config.seed}+{state.guards.num_rollbacks}"
        self._visits: Counter[str] = Counter()
        """The step's groups of each prompt: one that comes again goes on counting its samples."""
        self._asked: dict[int, Prompt] = {}
        """By index, prompts for which completions are sampled in this step."""
        self._num_prompts = state.num_prompts
        self._num_unknown = 0
        """Completions with an unknown reward."""
        self._loads = [0] * collector.ranks.size
        """Groups that each rank has to see to, less those whose verdicts were read."""
        self._requests: deque[RolloutRequest] = deque()
        """This rank's, not yet with its engine."""
        self._unfinished: set[int] = set()
        """Indices of this rank's, with its engine or not."""
        self._finished: list[Scoring | None] = []
        """This rank's groups in the order in which they were finished; None where it had nothing left to do."""
        self._due: list[int] = []
        """When by the clock their verdicts are waited for."""
        self._clock = 0
        """Of the engine: how often it had room and asked in vain, as it does after every token."""
        self._verdicts = RankLog(collector.ranks, f"step {step}", in_turn=collector.engine.repeatable)
        """The same of all ranks, judged."""
        self._share = _Share(RewardStats(), {})
        self._refill, self._carried = start_refill(
            config.prompts_per_step, state.carry, state.step, state.num_prompts, config.filter
        )

    def run(self) -> None:
        """Generate, judge and refill at the same time, until the step is full or nothing more is to come."""
        begun = time.monotonic()
        for group in self._carried:
            if not group.rollouts:
                self._request(group.index, group.prompt)
            elif group.rollouts[0].verdict is not None:
                self._refill = add(self._refill, group, self._config.filter)
            elif self._is_ours():
                self._send(group)
        self._ask()
        sampling = Sampling(self._config.sampling.temperature, self._config.sampling.max_tokens)
        with suppress(_Done):
            for group in self._collector.engine.rollout(self._next_requests(), sampling):
                self._unfinished.remove(group.index)
                self._share.num_tokens += sum(len(rollout.token_ids) for rollout in group.rollouts)
                self._send(group)
        self._share.rewards.generate_s = time.monotonic() - begun - self._share.rewards.wait_s

    def result(self) -> Collected:
        """The same on every rank."""
        unread = [scoring for scoring in self._finished[self._verdicts.num_own_read :] if scoring is not None]
        self._collector.under_way = {scoring.group.index: scoring for scoring in unread}
        self._share.groups |= {scoring.group.index: scoring.group for scoring in unread}
        shares = self._collector.ranks.gather(self._share)
        self._verdicts.forget()
        rewards = RewardStats()
        rewards.add([share.rewards for share in shares])
        groups = {group.index: group for share in shares for group in share.groups.values()}
        refill = replace(
            self._refill,
            decided=self._whole(self._refill.decided, groups),
            accepted=self._whole(self._refill.accepted, groups),
            ahead=self._whole(self._refill.ahead, groups),
        )
        read = {group.index for group in (*refill.decided, *refill.ahead)}
        carry = in_prompt_order(
            [
                *refill.ahead,
                *(group for group in groups.values() if group.index not in read),
                *(given_up(index, prompt) for index, prompt in self._asked.items() if index not in groups),
            ]
        )
        return Collected(
            refill,
            carry if self._config.filter.max_carry_steps else (),
            rewards,
            self._num_prompts,
            sum(share.num_tokens for share in shares),
        )

    def _whole(self, outlines: Sequence[RolloutGroup], groups: Mapping[int, RolloutGroup]) -> tuple[RolloutGroup, ...]:
        """The groups with their tokens, and their rewards shaped."""
        config = self._config
        return tuple(
            apply_overlong(groups.get(group.index, group), config.sampling.max_tokens, self._step, config.overlong)
            for group in outlines
        )

    @property
    def _is_done(self) -> bool:
        """Known to all ranks at the same place: after as many verdicts."""
        return self._refill.is_full or not self._refill.num_in_flight

    def _next_requests(self) -> Iterator[RolloutRequest | None]:
        """What the engine asks for when it has room; with nothing left to generate, verdicts say what comes next.

        Raises _Done, in the engine, where it need not go on with what it has.
        """
        while not self._is_done:
            self._say()
            if self._is_due():
                self._read()
            elif self._requests:
                yield self._requests.popleft()
            elif self._unfinished:
                self._clock += 1
                yield None
            else:
                self._read()
        raise _Done

    def _is_due(self) -> bool:
        """Whether to read a verdict here. Where a run can be repeated it is at a fixed place, and waited for: when the
        engine has gone on for `PATIENCE` times as many steps as one of this rank's groups took.

        So graders have time, and the few groups that take longest hold up neither a step that is full without them nor
        what is drawn for those dropped.
        """
        if not self._collector.engine.repeatable:
            return self._verdicts.has_next
        number = self._verdicts.num_own_read
        num_unread = len(self._finished) - number
        return num_unread > self._config.reward.max_concurrency or (num_unread > 0 and self._clock >= self._due[number])

    def _send(self, group: RolloutGroup) -> None:
        scoring = self._collector.under_way.get(group.index)
        if scoring is None or scoring.group != group:
            scoring = self._collector.scorer.submit(group, self._step)
        self._finished.append(scoring)
        self._due.append(self._clock + PATIENCE * max(len(rollout.token_ids) for rollout in group.rollouts))

    def _say(self, wait: bool = False) -> None:
        """Tell the verdicts that are there, in their order; the first is waited for if told so."""
        while (number := self._verdicts.num_said) < len(self._finished):
            scoring = self._finished[number]
            if scoring is not None and not wait and not scoring.answer.done():
                break
            waited = RewardStats()  # all else counts once it is read
            self._verdicts.say(scoring and _outline(self._collector.scorer.result(scoring, waited)))
            self._share.rewards.wait_s += waited.wait_s
            wait = False

    def _read(self) -> None:
        """The next verdict, waited for; then draw prompts for what is dropped."""
        if self._verdicts.is_our_turn and self._verdicts.num_said == len(self._finished):
            self._finished.append(None)
            self._due.append(self._clock)
        if not self._verdicts.has_next:
            self._say(wait=True)
        rank, outline = self._verdicts.read()
        if outline is not None:
            if rank == self._collector.ranks.rank:
                scoring = self._finished[self._verdicts.num_own_read - 1]
                assert scoring is not None  # or its outline had been
                self._share.groups[outline.index] = self._collector.scorer.result(scoring, self._share.rewards)
            self._loads[rank] -= 1
            self._num_unknown += sum(rollout.reward is None for rollout in outline.rollouts)
            self._refill = add(self._refill, outline, self._config.filter)
            self._ask()

    def _ask(self) -> None:
        """Draw the prompts that are still needed."""
        config, prompts = self._config, self._collector.prompts
        if self._num_unknown > config.reward.max_error_frac * self._refill.num_asked * config.group_size:
            return  # the step will not be trained on: nothing more for a service that is away
        count = num_to_ask(self._refill, config.filter)
        for prompt in prompts.next_batch(count, config.data.shares, config.data.retire_after):
            self._request(self._num_prompts, prompt)
            self._num_prompts += 1
        self._refill = asked(self._refill, count)

    def _request(self, index: int, prompt: Prompt) -> None:
        size = self._config.group_size
        first = self._visits[prompt.id] * size
        self._visits[prompt.id] += 1
        self._asked[index] = prompt
        if self._is_ours():
            seeds = tuple(sampling_seed(self._seed, self._step, prompt.id, first + k) for k in range(size))
            self._unfinished.add(index)
            self._requests.append(RolloutRequest(index, prompt, seeds))

    def _is_ours(self) -> bool:
        """Whether this rank sees to the next group: the one with the fewest does."""
        rank = self._loads.index(min(self._loads))
        self._loads[rank] += 1
        return rank == self._collector.ranks.rank


_NO_PROMPT = Prompt("", (), {}, "", ())


def _outline(group: RolloutGroup) -> RolloutGroup:
    """What other ranks must know to decide on a group: its place and its rewards."""
    rollouts = tuple(replace(rollout, token_ids=(), logprobs=(), text="") for rollout in group.rollouts)
    return RolloutGroup(group.index, _NO_PROMPT, rollouts)
