"""What a verifier is: the protocol that every task kind, built in or plugged in, fulfils.

A verifier is split in two so that equal answers are judged once: `extract` takes the answer out of a completion (cheap,
pure, linear time), `judge` decides about the answer alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from pydantic import JsonValue

from sandbox.types import IsolatedFunction, Runner
from verifier_service.proofs import Proofs
from verifier_service.schemas import Task

Lane = Literal["light", "code"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a verifier decides about one answer.

    `reward` is finite and in [0, 1]; `reason` is one of the verifier's documented reasons.
    """

    reward: float
    reason: str
    components: Mapping[str, JsonValue] = field(default_factory=dict)


class Tools(Protocol):
    """What the worker lends a verifier: everything that touches answer text by evaluating it goes through here."""

    @property
    def runner(self) -> Runner:
        """Runs untrusted programs. Raises `sandbox.errors.CannotIsolate` on first use where the host cannot isolate."""
        ...

    @property
    def proofs(self) -> Proofs:
        """What this worker has proven of ground truths."""
        ...

    def isolated(self, target: str, *, fork_per_call: bool = False) -> IsolatedFunction:
        """A warm, isolated process around `package.module:name`; one a target and worker, made on first use."""
        ...


TaskT = TypeVar("TaskT", bound=Task)


class Verifier(Protocol[TaskT]):
    """One task kind."""

    kind: ClassVar[str]
    version: ClassVar[str]
    """Raised by every change that can move a reward."""
    description: ClassVar[str]
    lane: ClassVar[Lane]
    reasons: ClassVar[Mapping[str, str]]
    """Every reason `judge` can give (beside `verify.SHARED_REASONS`), with its meaning."""

    @property
    def task_model(self) -> type[TaskT]: ...

    def admit(self, task: TaskT) -> None:
        """Refuse what can be seen to be unusable, cheaply and without evaluating anything. Raises `TaskRefused`."""
        ...

    def extract(self, task: TaskT, text: str) -> str | None:
        """The answer in `text` (thinking already handled), None where there is none. Linear time, never raises."""
        ...

    def judge(self, task: TaskT, answer: str, tools: Tools) -> Judgement:
        """Decide. Limits that an answer hits are judgements; raises `CannotJudge` only for what is our fault."""
        ...

    def info(self) -> Mapping[str, Any]:
        """More for `GET /v1/verifiers` (the languages of `code`, the data sets of `logic`)."""
        ...


@runtime_checkable
class HasOracle(Protocol):
    """What a verifier may offer beside `Verifier`, for `verifier check`: a completion that ought to earn 1."""

    def oracle(self, task: Any) -> str | None:
        """The task's ground truth as a completion; None where the task carries none that could be given back."""
        ...


@runtime_checkable
class HasFaults(Protocol):
    """What a verifier may offer beside `Verifier`, for `verifier check`."""

    def faults(self, task: Any, tools: Tools) -> Iterator[str]:
        """What is wrong with an admitted task, one line each; may run the task's own graders."""
        ...


AnyVerifier = Verifier[Any]
