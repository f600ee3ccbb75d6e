"""Generation, judging and refilling overlap; what comes of it does not depend on who is quick."""

import random
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import pytest

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
    """Up to `room` groups at once; which of them is finished next follows from its prompt."""

    room: int = 3
    group_s: float = 0.0
    policy_version: int = 0
    num_nones: int = 0
    most_at_once: int = 0

    def rollout(self, requests: Iterable[RolloutRequest | None], sampling: Sampling) -> Iterator[RolloutGroup]:
        source, making = iter(requests), dict[int, RolloutRequest]()
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
            time.sleep(self.group_s)
            done = making.pop(min(making, key=lambda i: making[i].seeds[0]))
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
    service: FakeService, config: RunConfig, count: int = 4, forget: bool = False, ranks: Ranks = ALONE
) -> list[Collected]:
    """Some steps; with `forget` the run is killed after each and goes on from what a checkpoint holds."""
    state, engine, results = RunState(), FakeEngine(), list[Collected]()
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
    results = steps(service, config(filter__oversample=2.0))
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
    """One of the surplus never ends in the step that first asks for it."""

    class Straggling(FakeEngine):
        def rollout(self, requests: Iterable[RolloutRequest | None], sampling: Sampling) -> Iterator[RolloutGroup]:
            for request in takewhile(bool, requests):
                assert request.index != 5 or self.policy_version > 0, "waited for"
                text = replace(rollout(None, text="x", policy_version=self.policy_version), verdict=None)
                yield RolloutGroup(request.index, request.prompt, (text,) * 4)

    engine = Straggling()
    small = config(prompts_per_step=4, filter__oversample=2.0, reward__max_concurrency=1)
    rewards = iter(range(10**6))
    running = collector(FakeService(lambda *_: float(next(rewards) % 2)), small, engine)
    first = running.collect(1, RunState(), small)
    assert [(g.index, len(g.rollouts)) for g in first.carry] == [(4, 4), (5, 0), (6, 0), (7, 0)]
    engine.policy_version = 1
    second = running.collect(2, RunState(step=1, num_prompts=first.num_prompts, carry=first.carry), small)
    assert [g.index for g in second.refill.accepted] == [4, 5, 6, 7]
    assert [g.rollouts[0].policy_version for g in second.refill.accepted] == [0, 1, 1, 1]
    assert [g.prompt for g in first.carry] == [g.prompt for g in second.refill.accepted]


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

    def gather(self, value: Any) -> list[Any]:
        self.values[self.rank] = value
        self.barrier.wait(60)
        found = [self.values[rank] for rank in range(2)]
        self.barrier.wait(60)
        return found


@pytest.mark.parametrize("oversample", [1.0, 1.5])
def test_ranks_that_refill_in_rounds_train_on_the_same_groups(oversample: float) -> None:
    one = config(filter__oversample=oversample)
    alone = steps(FakeService(judge), one, count=2)
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(steps, Jittery(rank), one, 2, ranks=InThread(rank, 2)) for rank in range(2)]
        first, second = (part.result() for part in parts)
    assert shown(first) == shown(second)
    assert not any(r.verdict is None for result in first for g in result.carry for r in g.rollouts)
    # With a surplus the steps after the first begin with more or less of it.
    for ours, expected in list(zip(first, alone, strict=True))[: 1 if oversample > 1 else None]:
        assert ours.refill.accepted == expected.refill.accepted
        assert ours.refill.decided == expected.refill.decided
