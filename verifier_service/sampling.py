"""Procedural tasks: prompts with the tasks that grade their answers, the environment half of the logic verifier."""

from collections.abc import Mapping
from typing import Any

from verifier_service import puzzles
from verifier_service.errors import TaskRefused
from verifier_service.schemas import SampledItem

ANSWER_FORMAT = "Think step by step, then give only the final answer between <answer> and </answer> tags."
"""Follows every sampled question; the logic verifier reads nothing but the last pair of these tags."""


def sample(dataset: str, seed: int, count: int, config: Mapping[str, Any]) -> list[SampledItem]:
    """Entries 0 to `count - 1` of a Reasoning Gym data set. The same arguments give the same items.

    Raises `TaskRefused` for an unknown data set or a config that the data set refuses.
    """
    if "seed" in config:
        raise TaskRefused("config", "`seed` is not part of `config`")
    puzzles.admit(dataset, config)
    try:
        entries = [puzzles.entry_at(dataset, seed, index, config) for index in range(count)]
    except Exception as error:  # generators raise what they like
        raise TaskRefused("config", f"{type(error).__name__}: {error}") from error
    return [_item(dataset, seed, index, config, entry) for index, entry in enumerate(entries)]


def _item(dataset: str, seed: int, index: int, config: Mapping[str, Any], entry: puzzles.Entry) -> SampledItem:
    prompt = f"{str(entry['question']).rstrip()}\n\n{ANSWER_FORMAT}"
    shown = {name: entry[name] for name in ("question", "answer", "metadata")}
    task: dict[str, Any] = {"kind": "logic", "dataset": dataset, "entry": shown, "config": dict(config)}
    return SampledItem(id=f"{dataset}-{seed}-{index}", prompt=prompt, task=task)
