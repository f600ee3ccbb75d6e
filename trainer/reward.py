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
from verifier_service.client import RETRIED_STATUSES, ServiceError
from verifier_service.schemas import Item, Outcome, ScoreResponse, Verdict

logger = logging.getLogger(__name__)


class RewardClient(Protocol):
    """The part of `verifier_service.client.Client` that scoring needs; tests bring their own."""

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        """Verdicts in the order sent. Raises ServiceError, all retries made."""
        ...


@dataclass
class RewardStats:
    """What the scoring of a step, or of a validation, cost and lost."""

    num_completions: int = 0
    num_unknown: int = 0
    """Completions whose reward is null."""
    generate_s: float = 0.0
    """With the engine, all but the waiting."""
    wait_s: float = 0.0
    """In which everything stood still for rewards: what was not hidden."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When each request was under way."""
    verifier_versions: dict[str, str] = field(default_factory=dict)

    def add(self, shares: "Sequence[RewardStats]") -> None:
        """What the ranks did at the same time: completions add up, of times the longest counts."""
        for name in ("num_completions", "num_unknown"):
            setattr(self, name, getattr(self, name) + sum(getattr(share, name) for share in shares))
        for name in ("generate_s", "wait_s"):
            setattr(self, name, getattr(self, name) + max(getattr(share, name) for share in shares))
        self.spans += max(shares, key=lambda share: share.busy_s).spans
        for share in shares:
            self.verifier_versions |= share.verifier_versions

    @property
    def unknown_frac(self) -> float:
        return self.num_unknown / self.num_completions if self.num_completions else 0.0

    @property
    def busy_s(self) -> float:
        """Time with at least one request under way, hidden or not."""
        total, covered = 0.0, float("-inf")
        for begun, ended in sorted(self.spans):
            total += max(0.0, ended - max(begun, covered))
            covered = max(covered, ended)
        return total


@dataclass(frozen=True)
class _Answer:
    verdicts: list[Verdict]
    begun: float
    ended: float


@dataclass(frozen=True)
class Scoring:
    """A group that was sent."""

    group: RolloutGroup
    answer: "Future[_Answer]"


class Scorer:
    """Sends groups with bounded concurrency. What cannot be had from the service is unknown, never 0."""

    def __init__(self, client: RewardClient, config: RewardConfig, run_name: str) -> None:
        self._client = client
        self._config = config
        self._run = run_name[:64]  # to recognise in logs; a request id holds 200 characters at most
        self._pool = ThreadPoolExecutor(config.max_concurrency, thread_name_prefix="reward")
        self._away: ServiceError | None = None
        """Set when the service was waited for in vain: the step's other groups are lost without more waiting."""

    def begin_step(self) -> None:
        """Whatever was: the service is worth waiting for once more. Before a validation too."""
        self._away = None

    def submit(self, group: RolloutGroup, step: int) -> Scoring:
        """Send a group while others are generated."""
        return Scoring(group, self._pool.submit(self._ask, group, step))

    def result(self, scoring: Scoring, stats: RewardStats) -> RolloutGroup:
        """The group with its verdicts, waited for; `stats` is added to."""
        begun = time.monotonic()
        answer = scoring.answer.result()
        stats.wait_s += time.monotonic() - begun
        stats.spans.append((answer.begun, answer.ended))
        for verdict in answer.verdicts:
            stats.num_completions += 1
            stats.num_unknown += verdict.reward is None
            if verdict.verifier_version:
                stats.verifier_versions[verdict.verifier] = verdict.verifier_version
        pairs = zip(scoring.group.rollouts, answer.verdicts, strict=True)
        return replace(scoring.group, rollouts=tuple(replace(rollout, verdict=verdict) for rollout, verdict in pairs))

    def score(self, groups: Iterable[RolloutGroup], step: int, stats: RewardStats) -> list[RolloutGroup]:
        """All groups with their verdicts, in prompt order. The iterable drives the engine."""
        begun = time.monotonic()
        scorings = [self.submit(group, step) for group in groups]
        stats.generate_s += time.monotonic() - begun
        return sorted((self.result(scoring, stats) for scoring in scorings), key=lambda group: group.index)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, group: RolloutGroup, step: int) -> _Answer:
        begun = time.monotonic()
        item = Item(
            id=group.prompt.id, task=dict(group.prompt.task), completions=[rollout.text for rollout in group.rollouts]
        )
        # The key names the whole body: a resumed run asks for the same again, another sample is another request.
        body = f"{self._config.deadline_s} {item.model_dump_json()}"
        digest = hashlib.blake2b(body.encode(), digest_size=8).hexdigest()
        request_id = f"{self._run}-{step}-{group.index}-{digest}"
        try:
            if self._away is not None:
                raise self._away
            response = self._client.score([item], deadline_s=self._config.deadline_s, request_id=request_id)
        except ServiceError as error:
            if error is not self._away:
                logger.warning("step %d: no verdicts for %s: %s", step, group.prompt.id, error)
            if error.problem is None or error.problem.status in RETRIED_STATUSES:
                self._away = error
            return _Answer([lost_verdict(group, error)] * len(group.rollouts), begun, time.monotonic())
        return _Answer(list(response.items[0].verdicts), begun, time.monotonic())


def lost_verdict(group: RolloutGroup, error: ServiceError) -> Verdict:
    """Unknown: the service was out of reach, or refused the task."""
    return Verdict(
        outcome=Outcome.ERROR,
        reward=None,
        reason="unreachable" if error.problem is None else f"http_{error.problem.status}",
        verifier=str(group.prompt.task.get("kind")),
        verifier_version="",
    )
