"""A tiny model, a few tasks and a judge in this process: a whole run in seconds, without a service."""

import json
import random
import zlib
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import Qwen3Config, Qwen3ForCausalLM

from trainer.progress import Progress
from trainer.run import Run
from trainer.run_config import RunConfig, SourceConfig
from trainer.train import train
from verifier_service.schemas import Item, Outcome, SampledItem, ScoredItem, ScoreResponse, Verdict

Judge = Callable[[Item, str], float | None]
"""Reward of one completion; None: unknown."""


def spelled_backward(item: Item, completion: str) -> float:
    """1 for exactly the word backward between the answer tags."""
    answer = completion.rpartition("<answer>")[2].partition("</answer>")
    return float(bool(answer[1]) and answer[0] == item.task["entry"]["answer"])


def by_chance(item: Item, completion: str) -> float:
    """A reward without sense, but always the same for the same text."""
    return zlib.crc32(completion.encode()) % 5 / 4


class FakeService:
    """Judges in this process, with the interface of the real client."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.request_ids: list[str] = []

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        self.request_ids.append(request_id)
        scored = [ScoredItem(id=i.id, verdicts=[verdict_of(self.judge(i, c)) for c in i.completions]) for i in items]
        return ScoreResponse(request_id=request_id, items=scored)


def verdict_of(reward: float | None) -> Verdict:
    outcomes = {None: Outcome.ERROR, 0.0: Outcome.INCORRECT, 1.0: Outcome.CORRECT}
    outcome = outcomes.get(reward, Outcome.PARTIAL)
    return Verdict(outcome=outcome, reward=reward, reason="test", verifier="logic", verifier_version="1")


def sample_words(source: SourceConfig) -> list[SampledItem]:
    """Words of 2 to 4 letters with their spelling backward."""
    rng = random.Random(source.seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 4))) for _ in range(source.count)]
    return [
        SampledItem(
            id=f"{i}",
            prompt=f"Spell backward: {word}",
            task={"kind": "logic", "dataset": "spell_backward", "entry": {"answer": word[::-1]}},
        )
        for i, word in enumerate(words)
    ]


def run_config(run_dir: Path, **changes: Any) -> RunConfig:
    """Steps of 4 prompts x 4 completions on a model of 2 x 64; `a__b=1` sets the key a.b."""
    source: dict[str, Any] = {
        "run_dir": str(run_dir),
        "num_steps": 4,
        "prompts_per_step": 4,
        "group_size": 4,
        "updates_per_step": 2,
        "tokens_per_microbatch": 64,
        "model": {"num_threads": 1, "demo": {"warm_up_steps": 4, "hidden_size": 64, "num_layers": 2}},
        "engine": {"max_rows": 8},
        "sampling": {"temperature": 1.2, "max_tokens": 6, "max_prompt_tokens": 32},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
        "data": {"sources": [{"name": "words", "dataset": "spell_backward", "seed": 1, "count": 60}]},
        "checkpoint": {"every_steps": 2},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        table = source
        for key in path:
            table = table.setdefault(key, {})
        table[last] = value
    return RunConfig.model_validate(source)


def train_quietly(config: RunConfig, judge: Judge = by_chance, service: FakeService | None = None) -> Run:
    return train(config, service or FakeService(judge), sample_words, Progress(Console(file=StringIO())))


def metrics_of(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times and rates."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time_") and k != "tokens_per_s"} for line in lines]


def tiny_model(seed: int = 0, tied: bool = True, **changes: Any) -> Qwen3ForCausalLM:
    """Random weights large enough that every token matters; vocabulary of 64."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "tie_word_embeddings": tied,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.2,
    }
    return Qwen3ForCausalLM(Qwen3Config(**(settings | changes)))
