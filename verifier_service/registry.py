"""Every task kind by name: the built-in table, and what third parties add by the entry point group below."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from pydantic import JsonValue

from verifier_service.errors import TaskRefused
from verifier_service.schemas import Task
from verifier_service.verifier import AnyVerifier

ENTRY_POINT_GROUP = "verifier_service.verifiers"

BUILT_IN: Mapping[str, str] = {
    "math": "verifier_service.verifiers.math:MathVerifier",
    "code": "verifier_service.verifiers.code:CodeVerifier",
    "stem": "verifier_service.verifiers.stem:StemVerifier",
    "logic": "verifier_service.verifiers.logic:LogicVerifier",
    "instruction": "verifier_service.verifiers.instruction:InstructionVerifier",
}

EXPLOITS_WITHSTOOD: Mapping[str, int] = {"math": 131, "code": 58, "stem": 59, "logic": 112, "instruction": 63}
"""How many cheats the project's tests show each kind to withstand: the lines of `tests/verifier_service/exploits` (each
with an honest twin that is paid) and the exploits among the `cases`."""


def kinds() -> tuple[str, ...]:
    return (*BUILT_IN, *sorted(_plugged_in()))


@cache
def verifier_for(kind: str) -> AnyVerifier:
    """The verifier of a kind, made once a process. Raises `TaskRefused` for a kind nobody registered or whose
    module does not load."""
    target = BUILT_IN.get(kind) or _plugged_in().get(kind)
    if target is None:
        raise TaskRefused("kind", f"unknown task kind {kind!r}; known are {', '.join(kinds())}")
    module, _, name = target.partition(":")
    try:
        verifier: AnyVerifier = getattr(import_module(module), name)()
    except Exception as error:  # a plug-in may fail in any way; the other kinds go on
        message = f"the verifier of kind {kind!r} cannot be loaded: {type(error).__name__}: {error}"
        raise TaskRefused("kind", message) from error
    return verifier


def parse_task(raw: Mapping[str, JsonValue]) -> tuple[AnyVerifier, Task]:
    """A raw task and its verifier. Raises `TaskRefused`, or pydantic's `ValidationError` for fields that do not fit."""
    kind = raw.get("kind")
    if not isinstance(kind, str):
        raise TaskRefused("kind", "a task needs a `kind`")
    verifier = verifier_for(kind)
    task: Task = verifier.task_model.model_validate(raw)
    verifier.admit(task)
    return verifier, task


@cache
def _plugged_in() -> Mapping[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in BUILT_IN}
