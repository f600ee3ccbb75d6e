"""How fast puzzles and instructions are judged: CPU milliseconds a verdict, in one process, no cache of verdicts.

    python benchmarks/rules.py

Instructions: each id on ten different texts of 4,096 characters, with empty caches before each. Puzzles: the right and
a wrong answer to ten entries of each data set, through the verifier; the scorers of the sandbox apart.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from verifier_service import instructions, puzzles
from verifier_service.instructions import detector, sentences, tokens
from verifier_service.schemas import InstructionTask, LogicTask
from verifier_service.tools import WorkerTools
from verifier_service.verifiers.instruction import InstructionVerifier
from verifier_service.verifiers.logic import LogicVerifier
from verifier_service.verify import verify

LENGTH = 4096
_PROSE = (
    "The old lighthouse stood at the end of the pier, and nobody remembered who had built it. Every evening, at about "
    '6 p.m., Mr. Hale climbed its 132 steps; "one for each year," he said. Was it true? He never told! His sister '
    "kept a list: bread, oil, two candles, a coil of rope. Storms came in March. They left in April, as they do.\n\n"
)
_ARGUMENTS: dict[str, Any] = {
    "keywords": ["pier", "rope"], "keyword": "rope", "relation": "at least", "forbidden_words": ["train", "plane"],
    "letter": "e", "let_relation": "at least", "capital_relation": "at least", "language": "en", "word": "rope",
    "section_spliter": "SECTION", "first_word": "the", "end_phrase": "as they do.", "postscript_marker": "P.S.",
    "options": "yes/no/maybe", "prompt_to_repeat": "Tell me a story.", "reference_text": _PROSE, "sep": "-",
}  # fmt: skip


def texts() -> list[str]:
    words = (_PROSE * 40).split(" ")
    return [" ".join(words[7 * shift :])[:LENGTH] for shift in range(10)]


def arguments(instruction_id: str) -> dict[str, Any]:
    names = instructions.CHECKERS[instruction_id].__code__
    given = names.co_varnames[1 : names.co_argcount]
    return {name: _ARGUMENTS.get(name, "rope" if name.startswith("keyword") else 3) for name in given}


def cpu_ms(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return 1000 * (time.process_time() - started)


def time_instructions(tools: WorkerTools) -> dict[str, float]:
    """Median CPU milliseconds of each id on 4 KB."""
    verifier, medians = InstructionVerifier(), {}
    for name in instructions.CHECKERS:
        listed = [{"id": name, "kwargs": arguments(name)}]
        task = InstructionTask.model_validate({"instructions": listed})
        verify(verifier, task, _PROSE, tools)
        spent = []
        for text in texts():
            for cache in (sentences.split, tokens.treebank_words, detector.detected, detector._grams):
                cache.cache_clear()
            spent.append(cpu_ms(lambda text=text, task=task: verify(verifier, task, text, tools)))  # type: ignore[misc]
        medians[name] = statistics.median(spent)
    return medians


def time_puzzles(tools: WorkerTools) -> tuple[list[float], list[float]]:
    """CPU milliseconds of each verdict in process, wall milliseconds of each in the sandbox."""
    verifier = LogicVerifier()
    inside: list[float] = []
    outside: list[float] = []
    for name in puzzles.dataset_names():
        if name == "composite":
            continue
        for index in range(10):
            entry = puzzles.entry_at(name, 5, index, {})
            task = LogicTask.model_validate({"dataset": name, "entry": entry})
            right = puzzles.oracle(name, entry) or "0"
            for completion in (f"<answer>{right}</answer>", "<answer>17</answer>"):
                if name in puzzles.SANDBOXED:
                    started = time.perf_counter()
                    verify(verifier, task, completion, tools)
                    inside.append(1000 * (time.perf_counter() - started))
                else:
                    verify(verifier, task, completion, tools)
                    outside.append(cpu_ms(lambda task=task, text=completion: verify(verifier, task, text, tools)))  # type: ignore[misc]
    return outside, inside


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None).parse_args()
    tools = WorkerTools()
    try:
        medians = time_instructions(tools)
        slowest = max(medians, key=lambda name: medians[name])
        median = statistics.median(medians.values())
        print(f"instructions, {LENGTH} characters: median of {len(medians)} ids {median:.3f} ms CPU")
        print(f"the slowest of them: {slowest} {medians[slowest]:.2f} ms CPU")
        outside, inside = time_puzzles(tools)
        print(f"puzzles in process: median {statistics.median(outside):.3f} ms, largest {max(outside):.2f} ms CPU")
        print(f"puzzles in the sandbox: median {statistics.median(inside):.1f} ms, largest {max(inside):.1f} ms wall")
    finally:
        tools.close()


if __name__ == "__main__":
    main()
