"""The demo's model, and that it learns: with the true rewards, and not with rewards that say nothing."""

import json
import zlib
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.trainer.tiny import FakeService, Judge, sample_words, spelled_backward
from trainer.demo import make_demo_model, make_tokenizer
from trainer.files import sha256_of_folder
from trainer.progress import Progress
from trainer.prompts import encode_prompt
from trainer.run_config import DemoModelConfig, RunConfig, SourceConfig, load_config
from trainer.train import train
from trainer.types import Prompt
from verifier_service.sampling import sample
from verifier_service.schemas import Item, SampledItem

DEMO = Path(__file__).parents[2] / "configs" / "demo.toml"


def words() -> list[Prompt]:
    items = sample_words(SourceConfig(name="words", dataset="spell_backward", count=40))
    return [Prompt(f"{i.id}", ({"role": "user", "content": str(i.prompt)},), i.task, "words", ()) for i in items]


def test_the_same_seed_makes_the_same_model(tmp_path: Path) -> None:
    config = DemoModelConfig(warm_up_steps=3, hidden_size=64, num_layers=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo_model(words(), config.model_copy(update={"seed": seed}), tmp_path / name)
    a, b, c = (sha256_of_folder(tmp_path / name) for name in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]


def test_what_all_prompts_share_is_one_token_and_nothing_is_lost() -> None:
    tokenizer = make_tokenizer(words())
    for prompt in words():
        ids = encode_prompt(tokenizer, prompt)
        word = prompt.messages[0]["content"].removeprefix("Spell backward: ")
        assert len(ids) == 4 + len(word)
        assert tokenizer.decode(ids) == f"<|user|>{prompt.messages[0]['content']}<|end|><|assistant|>"
    for text in ("<answer>déjà vu</answer>", "  two  spaces\n", "🙂 \x00"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def sample_puzzles(source: SourceConfig) -> list[SampledItem]:
    assert source.dataset is not None
    return sample(source.dataset, source.seed, source.count, source.config)


def rise(run_dir: Path, judge: Judge, num_steps: int, *settings: str) -> tuple[float, float]:
    """Of the held-out reward over the first steps of the demo, one reset on the way; and its standard error."""
    config: RunConfig = load_config(
        DEMO,
        [
            f"run_dir={run_dir}",
            f"num_steps={num_steps}",
            f"reset.every_steps={num_steps // 2 + 1}",
            "validation.every_steps=100",
            *settings,
        ],
    )
    run = train(config, FakeService(judge), sample_puzzles, Progress(Console(file=StringIO())))
    assert run.state.era == 1
    first = json.loads((run_dir / "ledger.jsonl").read_text().splitlines()[0])["validation"]["spell_backward"]
    last: dict[str, Any] = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    held = last["validation"]["sets"]["spell_backward"]
    return held["mean"] - first, 2**0.5 * held["standard_error"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.soak) for s in (1, 2))])
def test_the_demo_learns(tmp_path: Path, seed: int) -> None:
    gain, error = rise(tmp_path, spelled_backward, 25, f"seed={seed}", f"model.demo.seed={seed}")
    assert gain >= 0.15
    assert gain > 3 * error


def test_it_does_not_learn_from_rewards_that_say_nothing(tmp_path: Path) -> None:
    def by_lot(item: Item, completion: str) -> float:
        if (item.id or "").startswith("validation"):
            return spelled_backward(item, completion)
        return float(zlib.crc32(f"{item.id} {completion}".encode()) % 4 == 0)

    gain, error = rise(tmp_path, by_lot, 10)
    assert gain < max(0.15, 3 * error) / 2
