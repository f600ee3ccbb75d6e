"""Scoring while others are generated."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.trainer.builders import group
from tests.trainer.tiny import FakeService, by_chance
from trainer.reward import RewardStats, Scorer
from trainer.run_config import RewardConfig
from trainer.types import RolloutGroup
from verifier_service.client import ServiceError
from verifier_service.schemas import Item, Problem, ScoreResponse

GROUPS = [group(index, [None] * 3) for index in (4, 2, 9)]


def scorer(service: object, **config: float) -> Scorer:
    return Scorer(service, RewardConfig.model_validate(config), "run")  # type: ignore[arg-type]


def test_verdicts_come_back_in_prompt_order() -> None:
    stats = RewardStats()
    scored = scorer(FakeService(by_chance)).score(GROUPS, 7, stats)
    assert [g.index for g in scored] == [2, 4, 9]
    assert {r.reward for g in scored for r in g.rollouts} == {by_chance(Item(task={}, completions=["x"]), "text")}
    assert (stats.num_completions, stats.num_unknown, stats.verifier_versions) == (9, 0, {"logic": "1"})


def test_a_group_is_sent_while_the_next_is_generated() -> None:
    service = FakeService(by_chance)
    sent_before_the_end = threading.Event()

    def generated() -> Iterator[RolloutGroup]:
        yield GROUPS[0]
        for _ in range(500):
            if service.request_ids:
                sent_before_the_end.set()
                break
            time.sleep(0.01)
        yield GROUPS[1]

    scorer(service).score(generated(), 1, RewardStats())
    assert sent_before_the_end.is_set()


class Slow(FakeService):
    """Counts how many requests are under way."""

    def __init__(self) -> None:
        super().__init__(by_chance)
        self.now, self.most = 0, 0
        self.lock = threading.Lock()

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1
        return super().score(items, deadline_s=deadline_s, request_id=request_id)


def test_concurrency_is_bounded_and_used() -> None:
    service = Slow()
    scorer(service, max_concurrency=3).score([group(i, [None]) for i in range(12)], 1, RewardStats())
    assert service.most == 3


def test_time_hidden_behind_generation_is_not_waited_for() -> None:
    def generated() -> Iterator[RolloutGroup]:
        yield GROUPS[0]
        time.sleep(0.2)

    stats = RewardStats()
    scorer(Slow()).score(generated(), 1, stats)
    assert stats.busy_s >= 0.02
    assert stats.generate_s >= 0.2
    assert stats.wait_s < 0.02


class Failing(FakeService):
    def __init__(self, problem: Problem | None) -> None:
        super().__init__(by_chance)
        self.problem = problem

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        if items[0].id == "p2":
            raise ServiceError("down", self.problem)
        return super().score(items, deadline_s=deadline_s, request_id=request_id)


@pytest.mark.parametrize(
    ("problem", "reason"),
    [(None, "unreachable"), (Problem(type="about:blank", title="t", status=422, detail="d"), "http_422")],
)
def test_what_the_service_cannot_say_is_unknown_and_never_zero(problem: Problem | None, reason: str) -> None:
    stats = RewardStats()
    others, lost = [], None
    for found in scorer(Failing(problem), max_concurrency=1).score([*GROUPS[::2], GROUPS[1]], 1, stats):
        if found.index == 2:
            lost = found
        else:
            others.append(found)
    assert lost is not None
    assert {(r.reward, r.verdict.reason) for r in lost.rollouts if r.verdict} == {(None, reason)}
    assert all(r.reward is not None for g in others for r in g.rollouts)
    assert stats.unknown_frac == pytest.approx(3 / 9)


class Away(FakeService):
    """Cannot be reached; every call takes the client's whole patience."""

    def __init__(self, problem: Problem | None) -> None:
        super().__init__(by_chance)
        self.problem = problem
        self.num_calls = 0

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        self.num_calls += 1
        raise ServiceError("down", self.problem)


@pytest.mark.parametrize("problem", [None, Problem(type="about:blank", title="t", status=503, detail="d")])
def test_an_outage_is_waited_out_once_a_step(problem: Problem | None) -> None:
    service = Away(problem)
    one_at_a_time = scorer(service, max_concurrency=1)
    for step in (1, 2):
        stats = RewardStats()
        one_at_a_time.begin_step()
        one_at_a_time.score([group(i, [None] * 2) for i in range(20)], step, stats)
        assert (service.num_calls, stats.num_unknown) == (step, 40)


def test_what_one_group_is_refused_costs_no_other() -> None:
    service = Away(Problem(type="about:blank", title="t", status=422, detail="d"))
    scorer(service, max_concurrency=1).score([group(i, [None]) for i in range(3)], 1, RewardStats())
    assert service.num_calls == 3


def test_the_idempotency_key_names_what_is_judged() -> None:
    def key(step: int, index: int, name: str = "run", deadline_s: float = 300) -> str:
        service = FakeService(by_chance)
        Scorer(service, RewardConfig(deadline_s=deadline_s), name).score([group(index, [None])], step, RewardStats())
        return service.request_ids[0]

    assert key(1, 2) == key(1, 2)
    assert len({key(1, 2), key(2, 2), key(1, 3), key(1, 2, "other"), key(1, 2, deadline_s=9)}) == 5
    assert len(key(10**6, 10**9, "long" * 60)) <= 200
