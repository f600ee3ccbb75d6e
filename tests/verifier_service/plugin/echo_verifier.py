"""A verifier from a third party, for the tests of the service: it does what the answer says."""

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from verifier_service.errors import CannotJudge, TaskRefused
from verifier_service.schemas import Task
from verifier_service.verifier import Judgement, Tools

HOARD: list[bytes] = []


class EchoTask(Task):
    kind: Literal["echo"] = "echo"
    want: str
    log: str | None = None
    """A file that gets one line for every answer judged."""


class EchoVerifier:
    kind = "echo"
    version = "1"
    description = "Correct is the text that the task wants; some answers misbehave."
    lane: Literal["light", "code"] = "light"
    reasons: Mapping[str, str] = {"equal": "the text wanted", "different": "another text"}
    task_model = EchoTask

    def admit(self, task: EchoTask) -> None:
        if task.want == "refuse me":
            raise TaskRefused("want", "refused, as it wants")

    def extract(self, task: EchoTask, text: str) -> str | None:
        return text or None

    def judge(self, task: EchoTask, answer: str, tools: Tools) -> Judgement:
        if task.log is not None:
            with Path(task.log).open("a") as log:
                log.write(answer + "\n")
        misbehave(answer)
        return Judgement(1.0, "equal") if answer == task.want else Judgement(0.0, "different")

    def info(self) -> Mapping[str, Any]:
        return {}


class SlowEchoVerifier(EchoVerifier):
    """The same in the lane of code."""

    kind = "echo_code"
    lane: Literal["light", "code"] = "code"

    class Task(EchoTask):
        kind: Literal["echo_code"] = "echo_code"  # type: ignore[assignment]

    task_model = Task


class NoopVerifier(EchoVerifier):
    """Costs nothing and reads only the beginning, as most answers are short."""

    kind = "noop"

    class Task(EchoTask):
        kind: Literal["noop"] = "noop"  # type: ignore[assignment]

    task_model = Task

    def extract(self, task: EchoTask, text: str) -> str | None:
        return text[:24]

    def judge(self, task: EchoTask, answer: str, tools: Tools) -> Judgement:
        return Judgement(0.0, "different")


def misbehave(answer: str) -> None:
    """`VERB [ARGUMENT]`; anything else is only text."""
    verb, _space, argument = answer.partition(" ")
    if verb == "sleep":
        time.sleep(float(argument.split()[0]))
    elif verb == "spin":
        while True:
            pass
    elif verb == "eat":
        hoard = bytearray(int(argument) << 20)
        time.sleep(len(hoard) and 60)
    elif verb == "keep":
        HOARD.append(b"x" * (int(argument) << 20))
    elif verb == "segfault":
        ctypes.string_at(0)
    elif verb == "kill-grader":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "kill-worker":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    elif verb == "kill-grader-once" and not Path(argument).exists():
        Path(argument).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    elif verb == "kill-worker-once" and not Path(argument).exists():
        Path(argument).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    elif verb == "raise":
        raise RuntimeError("this answer breaks the grader")
    elif verb == "cannot":
        raise CannotJudge("ground_truth", "as asked")
