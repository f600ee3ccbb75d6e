"""Prompts: where they come from, which are held out, and in which order they are drawn."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from trainer.errors import ConfigError, TrainerError
from trainer.jsonl import write_atomically
from trainer.run_config import SourceConfig
from trainer.types import Prompt
from verifier_service.client import Client, ServiceError
from verifier_service.schemas import SampledItem

Sampler = Callable[[SourceConfig], Sequence[SampledItem]]
"""Asks the service for the prompts of a procedural data set."""


def sampler_of(client: Client) -> Sampler:
    """Asks a service; what it refuses is a ConfigError, and that it is out of reach a TrainerError."""

    def sample(source: SourceConfig) -> Sequence[SampledItem]:
        assert source.dataset is not None  # a file is read, not sampled
        assert source.count is not None
        try:
            return client.sample(source.dataset, seed=source.seed, count=source.count, config=source.config)
        except ServiceError as error:
            refused = error.problem is not None and error.problem.status < 500
            raise (ConfigError if refused else TrainerError)(f"data source {source.name}: {error}") from error

    return sample


def load_source(source: SourceConfig, sample: Sampler, cache: Path, part: str) -> list[Prompt]:
    """The prompts of one domain, in the order of the file. Procedural ones are written to `cache` and read from there.

    `part` (training, validation) begins their ids, which are unique over the run.
    Raises ConfigError for a file that cannot be read, is empty, or has a line that is not a prompt with its task.
    """
    path = source.path
    if path is None:
        asked = json.dumps([source.dataset, source.seed, source.count, source.config], sort_keys=True)
        path = cache / f"{source.name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.jsonl"
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            write_atomically(path, "".join(item.model_dump_json() + "\n" for item in sample(source)))
    try:
        lines = path.read_text(encoding="utf-8").strip("\n").split("\n")[: source.count]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data source {source.name}: {error}") from error
    if not lines[0]:
        raise ConfigError(f"data source {source.name}: {path} is empty")
    prompts = [
        _parse(line, f"{path}:{number}", f"{part}/{source.name}/", number, source)
        for number, line in enumerate(lines, 1)
    ]
    if len({p.id for p in prompts}) < len(prompts):
        raise ConfigError(f"data source {source.name}: {path} has the same id twice")
    return prompts


def _parse(line: str, where: str, prefix: str, number: int, source: SourceConfig) -> Prompt:
    try:
        item = SampledItem.model_validate(_without_completions(json.loads(line)))
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{where}: not a prompt with a task ({str(error).splitlines()[0]})") from error
    if isinstance(item.prompt, str):
        messages: tuple[Mapping[str, str], ...] = ({"role": "user", "content": item.prompt},)
    else:
        messages = tuple(message.model_dump() for message in item.prompt)
    return Prompt(f"{prefix}{item.id or number}", messages, item.task | source.task, source.name, token_ids=())


def _without_completions(line: Any) -> Any:
    return {k: v for k, v in line.items() if k != "completions"} if isinstance(line, dict) else line


def hold_out(prompts: Iterable[Prompt], validation: Iterable[Prompt]) -> list[Prompt]:
    """The prompts whose text the validation does not have."""
    held = {_text(p) for p in validation}
    return [p for p in prompts if _text(p) not in held]


def _text(prompt: Prompt) -> str:
    return "\0".join(f"{m['role']}\0{m['content'].strip()}" for m in prompt.messages)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[int, ...]:
    """Through the chat template, ending where the assistant begins to speak."""
    messages = [dict(message) for message in prompt.messages]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return tuple(int(i) for i in ids)  # type: ignore[arg-type]


@dataclass
class DrawState:
    """All there is to know of what was drawn; a checkpoint holds it."""

    counts: dict[str, int] = field(default_factory=dict)
    """Draws of each domain since the run began, retired ones included."""
    solved: dict[str, int] = field(default_factory=dict)
    """Visits in a row in which the whole group of this prompt id was right; only ids that have one."""


class PromptSource:
    """Draws prompts from the mixture; what is drawn follows from the seed, the weights and the state alone.

    The domain of a draw is drawn by weight; in a domain every epoch is a permutation of its own, so each prompt comes
    once before any comes twice.
    """

    def __init__(self, domains: Mapping[str, Sequence[Prompt]], seed: int, state: DrawState | None = None) -> None:
        self._domains = {name: list(prompts) for name, prompts in domains.items()}
        self._seed = seed
        self._permutations: dict[str, tuple[int, np.ndarray]] = {}
        self.state = state or DrawState()

    def next_batch(self, count: int, weights: Mapping[str, float], retire_after: int | None) -> list[Prompt]:
        """The next prompts. Retired ones are passed over; where all are retired the next in order comes anyway."""
        return [self._next(self._choose_domain(weights), retire_after) for _ in range(count)]

    def upcoming(self, count: int) -> list[str]:
        """Ids of the next prompts, were all domains drawn alike; nothing moves on."""
        ahead = PromptSource(self._domains, self._seed, deepcopy(self.state))
        return [prompt.id for prompt in ahead.next_batch(count, dict.fromkeys(self._domains, 1.0), None)]

    def _choose_domain(self, weights: Mapping[str, float]) -> str:
        draw = sum(self.state.counts.values())
        names, shares = sorted(weights), np.array([weights[name] for name in sorted(weights)])
        return str(np.random.default_rng([self._seed, draw]).choice(names, p=shares / shares.sum()))

    def _next(self, domain: str, retire_after: int | None) -> Prompt:
        for _ in range(len(self._domains[domain])):
            prompt = self._draw(domain)
            if retire_after is None or self.state.solved.get(prompt.id, 0) < retire_after:
                return prompt
        return self._draw(domain)

    def _draw(self, domain: str) -> Prompt:
        prompts = self._domains[domain]
        count = self.state.counts.get(domain, 0)
        self.state.counts[domain] = count + 1
        epoch, position = divmod(count, len(prompts))
        if self._permutations.get(domain, (None,))[0] != epoch:
            entropy = [self._seed, epoch, *domain.encode()]
            self._permutations[domain] = (epoch, np.random.default_rng(entropy).permutation(len(prompts)))
        return prompts[int(self._permutations[domain][1][position])]

    def record(self, prompt_id: str, solved: bool) -> None:
        """What a group's visit says of its prompt."""
        if solved:
            self.state.solved[prompt_id] = self.state.solved.get(prompt_id, 0) + 1
        else:
            self.state.solved.pop(prompt_id, None)
