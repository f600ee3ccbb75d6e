"""Instruction following: the share of a prompt's instructions that a completion follows, as IFEval and IFBench check.

`mode: loose` accepts an instruction that any of eight variants of the completion follows: all of it, without its first
line, without its last, without both, each as it is and without asterisks.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, create_model

from verifier_service import instructions
from verifier_service.errors import TaskRefused
from verifier_service.instructions.tokens import Check
from verifier_service.schemas import Instruction, InstructionTask
from verifier_service.verifier import Judgement, Lane, Tools


class InstructionVerifier:
    kind: ClassVar[str] = "instruction"
    task_model: ClassVar = InstructionTask
    version: ClassVar[str] = "3"
    description: ClassVar[str] = "IFEval and IFBench instructions, checked on the text after the thinking"
    lane: ClassVar[Lane] = "light"
    reasons: ClassVar[Mapping[str, str]] = {
        "followed": "all instructions are followed",
        "partly_followed": "some instructions are followed, and `scoring` is `fraction`",
        "not_followed": "no instruction is followed, or not all where `scoring` is `all`",
    }

    def admit(self, task: InstructionTask) -> None:
        for position, instruction in enumerate(task.instructions):
            if instruction.id not in instructions.CHECKERS:
                raise TaskRefused(f"instructions.{position}.id", f"unknown instruction {instruction.id!r}")
            try:
                _arguments(task, instruction)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise TaskRefused(f"instructions.{position}.kwargs.{where}", first["msg"]) from error

    def extract(self, task: InstructionTask, text: str) -> str | None:
        """Everything is the answer; blank text follows no instruction."""
        return text if text.strip() else None

    def judge(self, task: InstructionTask, answer: str, tools: Tools) -> Judgement:
        texts = _variants(answer) if task.mode == "loose" else (answer,)
        repaired: Mapping[str, Check] = {}
        if task.semantics == "repaired":
            repaired = instructions.REPAIRED
            texts = tuple(text for text in texts if any(map(str.isalnum, text)))  # marks alone say nothing
        followed = []
        for instruction in task.instructions:
            check = repaired.get(instruction.id) or instructions.CHECKERS[instruction.id]
            arguments = _arguments(task, instruction)
            followed.append(any(check(text, **arguments) for text in texts))
        share = sum(followed) / len(followed)
        reward = share if task.scoring == "fraction" else float(all(followed))
        reason = "followed" if reward == 1.0 else "partly_followed" if reward > 0.0 else "not_followed"
        listed: list[JsonValue] = [
            {"id": instruction.id, "followed": met}
            for instruction, met in zip(task.instructions, followed, strict=True)
        ]
        return Judgement(reward, reason, {"instructions": listed})

    def info(self) -> Mapping[str, Any]:
        return {"instructions": sorted(instructions.CHECKERS)}


@cache
def _model(instruction_id: str) -> type[BaseModel]:
    """The arguments of a checker as a model, from its signature (the first parameter is the text)."""
    parameters = list(inspect.signature(instructions.CHECKERS[instruction_id]).parameters.values())[1:]
    fields: dict[str, Any] = {parameter.name: (parameter.annotation, ...) for parameter in parameters}
    config = ConfigDict(extra="forbid", frozen=True)
    return create_model(instruction_id, __config__=config, **fields)


def _arguments(task: InstructionTask, instruction: Instruction) -> dict[str, Any]:
    """The checker's arguments: null means not given, and the prompt serves where it is to be repeated.

    Raises pydantic's `ValidationError`.
    """
    model = _model(instruction.id)
    given = {name: value for name, value in instruction.kwargs.items() if value is not None}
    if "prompt_to_repeat" in model.model_fields and task.prompt is not None:
        given.setdefault("prompt_to_repeat", task.prompt)
    return dict(model.model_validate(given))


def _variants(text: str) -> tuple[str, ...]:
    """The eight variants of the loose mode, without duplicates and without blank ones."""
    lines = text.split("\n")
    cut = [text, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return tuple(dict.fromkeys(variant for part in cut for variant in (part, part.replace("*", "")) if variant.strip()))
