"""Generation, judging and refilling overlap; what comes of it does not depend on who is quick."""

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from torch._C._distributed_c10d import HashStore

from tests.trainer.builders import rollout
from tests.trainer.tiny import FakeService, run_config
from trainer.engine.protocol import RolloutRequest, Sampling
from trainer.parallel import ALONE, Ranks
from trainer.prompts import PromptSource
from trainer.reward import Scorer
from trainer.rollouts import Collected, Collector
from trainer.run_config import RunConfig
from trainer.state import RunState
from trainer.types import Prompt, RolloutGroup
from verifier_service.schemas import Item, ScoreResponse

PROMPTS = [
    Prompt(f"p{i}", ({"role": "user", "content": f"{i}"},), {"kind": "logic"}, "words", (1, 2)) for i in range(50)
]


@dataclass
class FakeEngine:
    """Up to `room` groups at once; which of them is finished next follows from its prompt, or they end as they began,
    but for the index that never ends."""

    room: int = 3
    group_s: float = 0.0
    policy_version: int = 0
    in_order: bool = False
    endless: int | None = None
    repeatable: bool = True
    num_nones: int = 0
    most_at_once: int = 0

    def rollout(self, requests: Iterable[RolloutRequest | None], sampling: Sampling) -> Iterator[RolloutGroup]:
        source, making, progress = iter(requests), dict[int, RolloutRequest](), time.monotonic()
        while True:
            while len(making) < self.room:
                request = next(source, None)
                if request is None:
                    self.num_nones += bool(making)
                    break
                making[request.index] = request
            if not making:
                return
            self.most_at_once = max(self.most_at_once, len(making))
            if not (ending := making.keys() - {self.endless}):
                assert time.monotonic() < progress + 20, "waited for what does not end"
                time.sleep(0.001)
                continue
            time.sleep(self.group_s)
            progress = time.monotonic()
            done = making.pop(min(ending, key=lambda i: i if self.in_order else making[i].seeds[0]))
            texts = [f"{seed}" for seed in done.seeds]
            rollouts = tuple(
                replace(rollout(None, text=t, policy_version=self.policy_version), verdict=None) for t in texts
            )
            yield RolloutGroup(done.index, done.prompt, rollouts)


def judge(item: Item, completion: str) -> float:
    """Three groups in four have both right and wrong answers."""
    return float(int(completion) % 2) if int(item.completions[0]) % 4 else 0.0


class Jittery(FakeService):
    """Takes anything from nothing to 10 ms."""

    def __init__(self, seed: int) -> None:
        super().__init__(judge)
        self.rng = random.Random(seed)

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        time.sleep(self.rng.random() * 0.01)
        return super().score(items, deadline_s=deadline_s, request_id=request_id)


class OneGrader(FakeService):
    """Judges one group after the other, each as slowly as told."""

    def __init__(self, group_s: float) -> None:
        super().__init__(judge)
        self.group_s = group_s
        self.lock = threading.Lock()

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        with self.lock:
            time.sleep(self.group_s)
        return super().score(items, deadline_s=deadline_s, request_id=request_id)


def collector(
    service: FakeService, config: RunConfig, engine: FakeEngine | None = None, ranks: Ranks = ALONE
) -> Collector:
    scorer = Scorer(service, config.reward, "run")
    return Collector(PromptSource({"words": PROMPTS}, 0), engine or FakeEngine(), scorer, ranks)  # type: ignore[arg-type]


def config(**changes: object) -> RunConfig:
    return run_config(Path("unused"), **{"prompts_per_step": 8, "reward__max_concurrency": 4, **changes})


def steps(
    service: FakeService,
    config: RunConfig,
    count: int = 4,
    forget: bool = False,
    ranks: Ranks = ALONE,
    in_order: bool = False,
) -> list[Collected]:
    """Some steps; with `forget` the run is killed after each and goes on from what a checkpoint holds."""
    state, engine, results = RunState(), FakeEngine(in_order=in_order), list[Collected]()
    running = collector(service, config, engine, ranks)
    for step in range(1, count + 1):
        if forget:
            draws = running.prompts.state
            running = collector(service, config, engine, ranks)
            running.prompts.state = draws
        engine.policy_version = state.step
        results.append(running.collect(step, state, config))
        state = replace(state, step=step, num_prompts=results[-1].num_prompts, carry=results[-1].carry)
    return results


def shown(results: Iterable[Collected]) -> list[object]:
    return [(r.refill, r.carry, r.num_prompts, r.num_tokens, r.rewards.num_completions) for r in results]


@pytest.mark.parametrize("oversample", [1.0, 1.5])
def test_what_is_trained_on_does_not_depend_on_the_grader(oversample: float) -> None:
    one = config(filter__oversample=oversample)
    expected = shown(steps(Jittery(0), one))
    assert shown(steps(Jittery(1), one)) == expected
    assert shown(steps(FakeService(judge), one, forget=True)) == expected


def test_a_full_step_is_the_first_good_groups_in_prompt_order() -> None:
    results = steps(Jittery(0), config())
    for result in results:
        assert [g.index for g in result.refill.decided] == list(
            range(result.num_prompts - len(result.refill.decided), result.num_prompts)
        )
        assert len(result.refill.accepted) == 8
        assert all(len({r.reward for r in g.rollouts}) == 2 for g in result.refill.accepted)
        assert not result.carry
    assert any(len(result.refill.decided) > 8 for result in results), "some must be dropped for this to prove anything"


def test_surplus_is_carried_without_waiting_and_sent_once() -> None:
    service = FakeService(judge)
    results = steps(service, config(filter__oversample=2.0), in_order=True)
    assert any(r.verdict is None for result in results for g in result.carry for r in g.rollouts)
    assert [result.refill.num_carried for result in results[1:]] == [len(result.carry) for result in results[:-1]]
    sent = [request_id.split("-")[2] for request_id in service.request_ids]
    assert len(set(sent)) == len(sent)
    indices = [g.index for result in results for g in result.refill.decided]
    assert indices == list(range(len(indices))), "every group is decided once, in order"


def test_a_group_with_unknown_rewards_neither_solves_its_prompt_nor_undoes_it() -> None:
    """Else an hour without graders would wake every prompt that is about to retire."""

    def solved_after(*verdicts: float | None) -> int:
        one = config(prompts_per_step=1, group_size=2, filter__max_rounds=1, reward__max_error_frac=1.0)
        rewards = list(verdicts)
        making = collector(FakeService(lambda item, completion: rewards.pop(0)), one)
        making.prompts.state.solved = {prompt.id: 3 for prompt in PROMPTS}
        [group] = making.collect(1, RunState(), one).refill.decided
        return making.prompts.state.solved.get(group.prompt.id, 0)

    assert solved_after(1.0, 1.0) == 4
    assert solved_after(1.0, None) == solved_after(None, None) == 3
    assert solved_after(None, 0.0) == solved_after(1.0, 0.0) == 0


def test_surplus_that_is_not_finished_is_not_waited_for_but_asked_again_in_its_place() -> None:
    """One of the surplus never ends in the step that first asks for it; graders may lag far behind."""
    engine = FakeEngine(room=8, in_order=True, endless=5)
    small = config(prompts_per_step=4, filter__oversample=2.0, reward__max_concurrency=16)
    rewards = iter(range(10**6))
    running = collector(FakeService(lambda *_: float(next(rewards) % 2)), small, engine)
    first = running.collect(1, RunState(), small)
    assert [g.index for g in first.refill.accepted] == [0, 1, 2, 3]
    assert [(g.index, len(g.rollouts)) for g in first.carry] == [(4, 4), (5, 0), (6, 4), (7, 4)]
    engine.policy_version, engine.endless = 1, None
    second = running.collect(2, RunState(step=1, num_prompts=first.num_prompts, carry=first.carry), small)
    assert [g.index for g in second.refill.accepted] == [4, 5, 6, 7]
    assert [g.rollouts[0].policy_version for g in second.refill.accepted] == [0, 1, 0, 0]
    assert [g.prompt for g in first.carry] == [g.prompt for g in second.refill.accepted]


def test_what_is_dropped_is_replaced_before_the_longest_group_ends() -> None:
    """Index 2 ends only once a replacement was judged."""
    engine = FakeEngine(room=8, in_order=True, endless=2)
    judged: list[str] = []

    def judge_first_two_equal(item: Item, completion: str) -> float:
        if item.id not in judged:
            judged.append(item.id)
        if len(judged) > 7:
            engine.endless = None
        return float(judged.index(item.id) > 1 and completion == item.completions[0])

    one = config(reward__max_concurrency=16)
    result = collector(FakeService(judge_first_two_equal), one, engine).collect(1, RunState(), one)
    assert len(result.refill.accepted) == 8
    assert result.num_prompts >= 10


def test_without_carry_the_surplus_is_dropped() -> None:
    results = steps(FakeService(judge), config(filter__oversample=2.0, filter__max_carry_steps=0))
    assert [(result.carry, result.refill.num_carried) for result in results] == [((), 0)] * 4


def test_replacements_join_while_others_are_generated() -> None:
    engine = FakeEngine(room=2)
    one = config(reward__max_concurrency=2)
    result = collector(FakeService(judge), one, engine).collect(1, RunState(), one)
    assert result.num_prompts > 8
    assert engine.most_at_once == 2


def test_a_grader_as_slow_as_generation_is_hidden() -> None:
    """25 ms a group, generated or judged; the machine's own delays come on top, hence not the 0.9 of the benchmark."""
    one = config(prompts_per_step=16, filter__oversample=1.5, reward__max_concurrency=8)
    result = collector(OneGrader(0.025), one, FakeEngine(room=4, group_s=0.025)).collect(1, RunState(), one)
    rewards = result.rewards
    assert rewards.busy_s >= 0.025 * len(result.refill.decided)
    assert 1 - rewards.wait_s / rewards.busy_s > 0.7


class InThread(Ranks):
    """A rank that is a thread."""

    barrier = threading.Barrier(2)
    values: ClassVar[dict[int, object]] = {}
    shared: ClassVar[HashStore] = HashStore()

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(60)
        found = [self.values[rank] for rank in range(2)]
        self.barrier.wait(60)
        return found

    def store(self) -> HashStore:
        return self.shared


def steps_on_two_ranks(config: RunConfig, **changes: Any) -> list[list[Collected]]:
    """What each of them has; graders are quick and slow as it comes."""
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(steps, Jittery(rank), config, ranks=InThread(rank, 2), **changes) for rank in range(2)]
        return [part.result() for part in parts]


@pytest.mark.parametrize("oversample", [1.0, 1.5])
def test_ranks_train_on_the_same_groups(oversample: float) -> None:
    one = config(filter__oversample=oversample)
    alone = steps(FakeService(judge), one)
    first, second = steps_on_two_ranks(one)
    assert shown(first) == shown(second)
    assert shown(steps_on_two_ranks(one)[0]) == shown(steps_on_two_ranks(one, forget=True)[0]) == shown(first)
    assert InThread.shared.num_keys() == 0
    # With a surplus the steps after the first begin with more or less of it.
    for ours, expected in list(zip(first, alone, strict=True))[: 1 if oversample > 1 else None]:
        assert ours.refill.accepted == expected.refill.accepted
        assert [g.index for g in ours.refill.decided] == [g.index for g in expected.refill.decided]


@pytest.mark.parametrize(("surplus", "endless"), [(1.0, 0), (2.0, 8)])
def test_ranks_wait_for_no_longest_group(surplus: float, endless: int) -> None:
    """It ends only once a replacement was judged by the other rank, or never, where it is surplus."""
    engines = [FakeEngine(8, in_order=True, endless=endless, repeatable=False), FakeEngine(8, repeatable=False)]
    one = config(filter__oversample=surplus)
    dropped = {prompt.id for prompt in PromptSource({"words": PROMPTS}, 0).next_batch(8, one.data.shares, None)[1:4]}

    class Watched(FakeService):
        def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
            if surplus == 1 and int(request_id.split("-")[2]) >= 8:
                engines[0].endless = None
            return super().score(items, deadline_s=deadline_s, request_id=request_id)

    def judge_some_equal(item: Item, completion: str) -> float:
        return float(completion == item.completions[0] and (surplus > 1 or item.id not in dropped))

    with ThreadPoolExecutor(2) as pool:
        making = [
            collector(Watched(judge_some_equal), one, engine, InThread(rank, 2)) for rank, engine in enumerate(engines)
        ]
        parts = [pool.submit(part.collect, 1, RunState(), one) for part in making]
        first, second = (part.result() for part in parts)
    assert shown([first]) == shown([second])
    assert [g.index for g in first.refill.accepted] == ([0, *range(4, 11)] if surplus == 1 else list(range(8)))
    assert not any(g.rollouts for g in first.carry if g.index == endless)
