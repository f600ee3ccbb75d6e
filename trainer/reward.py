"""Rewards over HTTP: every group is sent when its last completion is done, while others are still generated."""

import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from trainer.run_config import RewardConfig
from trainer.types import RolloutGroup
from verifier_service.client import ServiceError
from verifier_service.schemas import Item, Outcome, ScoreResponse, Verdict

logger = logging.getLogger(__name__)


class RewardClient(Protocol):
    """The part of `verifier_service.client.Client` that scoring needs; tests bring their own."""

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        """Verdicts in the order sent. Raises ServiceError, all retries made."""
        ...


@dataclass
class RewardStats:
    """What scoring cost and lost, summed over the rounds of a step."""

    num_completions: int = 0
    num_unknown: int = 0
    """Completions whose reward is null."""
    generate_s: float = 0.0
    """Spent waiting for the engine."""
    wait_s: float = 0.0
    """Spent waiting for rewards after the last completion: what generation did not hide."""
    busy_s: float = 0.0
    """Time with at least one request under way, hidden or not."""
    verifier_versions: dict[str, str] = field(default_factory=dict)

    def add(self, shares: "Sequence[RewardStats]") -> None:
        """What the ranks did at the same time: completions add up, of times the longest counts."""
        for name in ("num_completions", "num_unknown"):
            setattr(self, name, getattr(self, name) + sum(getattr(share, name) for share in shares))
        for name in ("generate_s", "wait_s", "busy_s"):
            setattr(self, name, getattr(self, name) + max(getattr(share, name) for share in shares))
        for share in shares:
            self.verifier_versions |= share.verifier_versions

    @property
    def unknown_frac(self) -> float:
        return self.num_unknown / self.num_completions if self.num_completions else 0.0


class Scorer:
    """Sends groups with bounded concurrency. What cannot be had from the service is unknown, never 0."""

    def __init__(self, client: RewardClient, config: RewardConfig, run_name: str) -> None:
        self._client = client
        self._config = config
        self._run_name = run_name
        self._pool = ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="reward")

    def score(self, groups: Iterable[RolloutGroup], step: int, stats: RewardStats) -> list[RolloutGroup]:
        """The groups with their verdicts, in prompt order; `stats` is added to. The iterable drives the engine."""
        futures: list[Future[_Scored]] = []
        begun = time.monotonic()
        for group in groups:
            futures.append(self._pool.submit(self._score_group, group, step))
        generated = time.monotonic()
        scored = [future.result() for future in futures]
        if failures := [s.failure for s in scored if s.failure is not None]:
            logger.warning(
                "step %d: no verdicts for %d of %d groups: %s", step, len(failures), len(scored), failures[0]
            )
        stats.generate_s += generated - begun
        stats.wait_s += time.monotonic() - generated
        stats.busy_s += _union_s([(s.begun, s.ended) for s in scored])
        for rollout in (rollout for s in scored for rollout in s.group.rollouts):
            stats.num_completions += 1
            stats.num_unknown += rollout.reward is None
            if rollout.verdict is not None and rollout.verdict.verifier_version:
                stats.verifier_versions[rollout.verdict.verifier] = rollout.verdict.verifier_version
        return sorted((s.group for s in scored), key=lambda group: group.index)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _score_group(self, group: RolloutGroup, step: int) -> "_Scored":
        begun = time.monotonic()
        item = Item(
            id=group.prompt.id, task=dict(group.prompt.task), completions=[rollout.text for rollout in group.rollouts]
        )
        # The key names the whole body: a resumed run asks for the same again, another sample is another request.
        body = f"{self._config.deadline_s} {item.model_dump_json()}"
        digest = hashlib.blake2b(body.encode(), digest_size=8).hexdigest()
        request_id = f"{self._run_name}-{step}-{group.index}-{digest}"
        failure = None
        try:
            response = self._client.score([item], deadline_s=self._config.deadline_s, request_id=request_id)
            verdicts = response.items[0].verdicts
        except ServiceError as error:
            verdicts, failure = [lost_verdict(group, error)] * len(group.rollouts), str(error)
        rollouts = tuple(replace(r, verdict=v) for r, v in zip(group.rollouts, verdicts, strict=True))
        return _Scored(replace(group, rollouts=rollouts), begun, time.monotonic(), failure)


def lost_verdict(group: RolloutGroup, error: ServiceError) -> Verdict:
    """Unknown: the service was out of reach, or refused the task."""
    return Verdict(
        outcome=Outcome.ERROR,
        reward=None,
        reason="unreachable" if error.problem is None else f"http_{error.problem.status}",
        verifier=str(group.prompt.task.get("kind")),
        verifier_version="",
    )


@dataclass(frozen=True)
class _Scored:
    group: RolloutGroup
    begun: float
    ended: float
    failure: str | None
    """Why the service gave no verdicts."""


def _union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of time spans."""
    total, covered = 0.0, float("-inf")
    for begun, ended in sorted(spans):
        total += max(0.0, ended - max(begun, covered))
        covered = max(covered, ended)
    return total
