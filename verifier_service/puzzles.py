"""Reasoning Gym through JSON: which data sets there are, an entry by its index, a score.

    entry_at("chain_sum", seed=7, index=3, config={}) -> {"question": ..., "answer": ..., "metadata": ...}
    score({"dataset": "chain_sum", "config": {}, "entry": ..., "answer": "12", "mode": "library"}) -> {"score": 1.0}

`score` is pure and takes and gives JSON, so that the same function serves in process and inside the sandbox. The
scorers named in `SANDBOXED` must never run anywhere else.
"""

import ast
import contextlib
import inspect
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import is_dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any, get_type_hints

from verifier_service.answer_guard import EVALUATING, refusal
from verifier_service.errors import TaskRefused
from verifier_service.plotless import without_plotting
from verifier_service.strict_scores import strict_score

with without_plotting():
    from reasoning_gym.composite import DatasetSpec
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS, create_dataset

Entry = dict[str, Any]
"""`question`: str, `answer`: str or None, `metadata`: dict; a knight swap at its largest is 20 KB."""

SANDBOXED = EVALUATING | {
    "bitwise_arithmetic",  # evaluates the entry's own problem, which a client of the service wrote
    "number_sorting",  # the same, with the entry's answer
    "coin_flip",  # Fraction("1e999999999") builds the integer
    "propositional_logic",  # recursion on the answer's nesting, 2 ** (its variables) assignments
    "rubiks_cube",  # "R999999999" is expanded move by move
    "rush_hour",  # "A+999999999" is driven square by square
}

NO_SOLUTION = '["No solution"]'
"""The own answer of `jugs` where a search was cut off; the scorer takes nothing but moves."""

LIBRARY_SIZE = 500
"""The library's default `size`; a data set's entries may depend on it (`acre`'s do)."""


def dataset_names() -> tuple[str, ...]:
    return tuple(sorted(DATASETS))


def admit(name: str, config: Mapping[str, Any]) -> None:
    """Let the data set's own config class have its say, without building the data set. Raises `TaskRefused`."""
    if name not in DATASETS:
        raise TaskRefused("dataset", f"no Reasoning Gym data set {name!r} is installed")
    try:
        made = DATASETS[name][1](**_arguments(name, config))
        if hasattr(made, "validate"):
            made.validate()
    except Exception as error:  # what a data set's config class raises is its own affair
        raise TaskRefused("config", f"{type(error).__name__}: {error}") from error


@cache
def reads_answer(name: str) -> bool:
    """Whether the data set's scorer compares with the entry's `answer`; others check against the metadata alone."""
    return '"answer"]' in inspect.getsource(DATASETS[name][0].score_answer)


def entry_at(name: str, seed: int, index: int, config: Mapping[str, Any]) -> Entry:
    """Entry `index` of the data set with that seed and config, through JSON. Raises whatever the generator raises."""
    return deepcopy(_generated(name, seed, index, json.dumps(config, sort_keys=True)))


def scorer_of(name: str, config: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The data set whose scorer decides, and its config: `composite` hands an entry to the one it came from.

    Raises KeyError where the entry names no registered data set.
    """
    if name != "composite":
        return name, dict(config)
    inner = str(entry["metadata"]["source_dataset"])
    if inner not in DATASETS or inner == "composite":
        raise KeyError(f"the entry's `source_dataset` is {inner!r}")
    specs = [spec for spec in config.get("datasets") or [] if spec["name"] == inner]
    return inner, dict(specs[0].get("config") or {}) if specs else {}


def oracle(name: str, entry: Mapping[str, Any]) -> str | None:
    """An answer that earns everything; None where the entry carries none (`boxnet`, `rush_hour`)."""
    metadata = entry["metadata"]
    if name == "propositional_logic":
        return str(metadata["example_answer"])
    if name == "rubiks_cube":
        return str(metadata["example_correct_answer"])
    if name == "graph_color":
        return json.dumps(metadata["possible_answer"])
    answer = entry["answer"]
    return None if answer is None else str(answer)


def proof(name: str, entry: Mapping[str, Any]) -> tuple[str, float]:
    """An answer that the scorer reads the whole entry for, and the least that it must pay for it if it can.

    The oracle and 1.0; where there is none, or the generator gave up looking for one, an answer without a move.
    Raises KeyError or TypeError where the entry lacks its oracle.
    """
    answer = oracle(name, entry)
    if (
        answer is not None
        and not (name == "jugs" and answer == NO_SOLUTION)
        and not (name == "rubiks_cube" and not answer)
    ):
        return answer, 1.0
    return "{}", 0.01 if name in ("rush_hour", "rubiks_cube") else 0.0


def score(payload: Mapping[str, Any]) -> dict[str, Any]:
    """{"dataset", "config", "entry", "answer", "mode"} -> {"score": float} or {"refused": reason}.

    Raises whatever the scorer raises on this answer.
    """
    name, answer = payload["dataset"], payload["answer"]
    entry = _restored(name, payload["entry"])
    refused = refusal(name, answer)
    if refused is not None:
        return {"refused": refused}
    dataset = _scoring_dataset(name, json.dumps(payload["config"], sort_keys=True))
    with _quiet():
        points = min(1.0, max(0.0, float(dataset.score_answer(answer, entry))))
        if payload["mode"] == "strict":
            points = strict_score(name, entry, answer, points)
    return {"score": points}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library prints (`bf`) and warns of (files left open, comments on what a completion wrote)."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _arguments(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the parts that the library wants as enums or objects of its own."""
    arguments = dict(config)
    for parameter, wanted in get_type_hints(DATASETS[name][1]).items():
        value = arguments.get(parameter)
        if not isinstance(wanted, type):
            continue
        if issubclass(wanted, Enum) and isinstance(value, str):
            arguments[parameter] = wanted(value)
        elif is_dataclass(wanted) and isinstance(value, Mapping):
            arguments[parameter] = wanted(**value)
    if name == "composite" and isinstance(arguments.get("datasets"), list):
        arguments["datasets"] = [DatasetSpec(**spec) for spec in arguments["datasets"]]
    return arguments


def _made(name: str, config_json: str, **overrides: Any) -> ProceduralDataset:
    arguments = _arguments(name, json.loads(config_json)) | overrides
    with _quiet():
        return create_dataset(name, **arguments)


# A data set object holds its config and word lists; scoring reads nothing else of it, so any seed serves.
@lru_cache(maxsize=128)
def _scoring_dataset(name: str, config_json: str) -> ProceduralDataset:
    return _made(name, config_json, seed=0, size=1)


@lru_cache(maxsize=16)
def _generating_dataset(name: str, seed: int, size: int, config_json: str) -> ProceduralDataset:
    return _made(name, config_json, seed=seed, size=size)


@lru_cache(maxsize=512)
def _generated(name: str, seed: int, index: int, config_json: str) -> Entry:
    # Beyond the library's size in powers of two: one object serves thousands of indices, and some take 50 ms to make.
    size = max(int(json.loads(config_json).get("size", LIBRARY_SIZE)), 1 << index.bit_length())
    dataset = _generating_dataset(name, seed, size, config_json)
    with _quiet():
        made = dataset[index]
    entry: Entry = json.loads(json.dumps(made, default=_plain))
    return entry


def _plain(value: Any) -> Any:
    """JSON's form of the numpy numbers and sympy expressions that some generators leave in the metadata."""
    return value.item() if hasattr(value, "item") else str(value)


def _restored(name: str, entry: Mapping[str, Any]) -> Entry:
    """The entry as the scorer wants it, where JSON has no such type: boards of tuples, a set written as text."""
    metadata = dict(entry["metadata"])
    if name in ("arc_agi", "rearc"):
        for board in ("input", "output"):
            if board in metadata:
                metadata[board] = tuple(tuple(row) for row in metadata[board])
    if name == "n_queens" and isinstance(metadata.get("valid_answers"), str):
        metadata["valid_answers"] = ast.literal_eval(metadata["valid_answers"])
    return {**entry, "metadata": metadata}
