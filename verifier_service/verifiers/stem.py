"""Science questions: a choice, a number with its unit, an expression, a chemical formula, or a short text. Binary."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from verifier_service import chemistry, choices, extraction, quantities
from verifier_service.errors import TaskRefused
from verifier_service.mathematics.notation import TEXT_COMMAND
from verifier_service.mathematics.reading import Reading, reading
from verifier_service.schemas import StemTask
from verifier_service.verifier import Judgement, Lane, Tools
from verifier_service.verifiers.math import REASONS, asks_for_several, gold_reading, judge_expression, refuse_unusable

DEFAULT_REL_TOL = 0.01
"""For ground truths that are neither integers nor exact: textbooks round to two or three digits."""


class StemVerifier:
    kind: ClassVar[str] = "stem"
    task_model: ClassVar = StemTask
    version: ClassVar[str] = "5"
    description: ClassVar[str] = "Choices, quantities with units, expressions, chemistry and short texts; binary."
    lane: ClassVar[Lane] = "light"
    reasons: ClassVar[Mapping[str, str]] = {
        **REASONS,
        "choice": "the right option",
        "other_choice": "another option",
        "no_choice": "no single option is chosen: none, several, or a letter and a text that conflict",
        "quantity": "the same quantity within the tolerance",
        "other_quantity": "another number, another dimension, or no number",
        "text": "the same text",
        "formula": "the same substance or reaction",
        "other_formula": "another substance, charge, state or reaction",
    }

    def admit(self, task: StemTask) -> None:
        kind = answer_type(task)
        for gold in task.golds:
            if kind == "choice":
                if choices.chosen(gold, task.choices) in (None, choices.SEVERAL):
                    raise TaskRefused("ground_truth", f"{gold!r} is none of the options")
            elif kind == "number":
                if quantities.parse_quantity(gold_reading(gold).text) is None:
                    raise TaskRefused("ground_truth", f"{gold!r} is no number")
            elif kind == "formula":
                if chemistry.same_chemistry(gold, gold) is None:
                    raise TaskRefused("ground_truth", f"{gold!r} is no chemical formula")
            else:
                refuse_unusable(gold)

    def extract(self, task: StemTask, text: str) -> str | None:
        if answer_type(task) == "choice":
            phrases = extraction.choice_answers(text)
            return next((phrase for phrase in phrases if choices.chosen(phrase, task.choices)), None) or next(
                iter(phrases), None
            )
        if answer_type(task) == "text":
            return extraction.text_answer(text)
        return extraction.any_answer(text, several=asks_for_several(task.golds)) or None

    def judge(self, task: StemTask, answer: str, tools: Tools) -> Judgement:
        kind = answer_type(task)
        golds = [gold_reading(gold) for gold in task.golds]
        if kind == "choice":
            return _judge_choice(task, answer)
        if kind == "number":
            return _judge_number(task, golds, answer)
        if kind == "text":
            return _judge_text(golds, answer)
        if kind == "formula":
            same = any(chemistry.same_chemistry(gold.text, answer) for gold in golds)
            return Judgement(1.0, "formula") if same else Judgement(0.0, "other_formula")
        return judge_expression(golds, answer, tools)

    def oracle(self, task: StemTask) -> str | None:
        return f"The answer is \\boxed{{{task.golds[0]}}}"

    def info(self) -> Mapping[str, Any]:
        return {"default_rel_tol": DEFAULT_REL_TOL}


def answer_type(task: StemTask) -> str:
    """What kind of answer the ground truth asks for, where the task does not say."""
    if task.answer_type != "auto":
        return task.answer_type
    gold = gold_reading(task.golds[0])
    if choices.chosen(gold.text, task.choices) not in (None, choices.SEVERAL) and (
        task.choices or len(gold.text.strip("()")) == 1
    ):
        return "choice"
    if quantities.parse_quantity(gold.text) is not None:
        return "number"
    if chemistry.is_chemistry(gold.text):
        return "formula"
    return "text" if gold.words is not None else "expression"


def _judge_choice(task: StemTask, answer: str) -> Judgement:
    letter = choices.chosen(answer, task.choices)
    if letter in (None, choices.SEVERAL):
        return Judgement(0.0, "no_choice")
    right = {choices.chosen(gold, task.choices) for gold in task.golds}
    return Judgement(1.0, "choice") if letter in right else Judgement(0.0, "other_choice")


def _judge_number(task: StemTask, golds: list[Reading], answer: str) -> Judgement:
    said = quantities.evaluated_quantity(reading(answer).text)
    for gold in golds:
        wanted = quantities.parse_quantity(gold.text)
        if said is None or wanted is None:
            continue
        rel_tol = task.rel_tol
        if rel_tol is None:
            rel_tol = 0.0 if wanted.decimals is None or task.abs_tol is not None else DEFAULT_REL_TOL
        if quantities.same_quantity(wanted, said, rel_tol=rel_tol, abs_tol=task.abs_tol or 0.0):
            return Judgement(1.0, "quantity")
    return Judgement(0.0, "other_quantity")


def _judge_text(golds: list[Reading], answer: str) -> Judgement:
    said = _words(reading(answer).text)
    same = any(_words(gold.text) == said for gold in golds)
    return Judgement(1.0, "text") if same else Judgement(0.0, "not_equivalent")


def _words(text: str) -> list[str]:
    """The words of a short text as SQuAD compares them: without case, punctuation and articles, unless that is all."""
    plain = TEXT_COMMAND.sub(r" \1 ", text).casefold()
    return [word for word in re.findall(r"\w+", plain) if word not in ("a", "an", "the")] or plain.split()
