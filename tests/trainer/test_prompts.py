"""Data: reading, holding out, drawing."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.trainer.tiny import sample_words
from trainer.errors import ConfigError
from trainer.prompts import DrawState, PromptSource, hold_out, load_source
from trainer.run_config import SourceConfig
from trainer.types import Prompt


def prompts(domain: str, count: int) -> list[Prompt]:
    return [
        Prompt(f"{domain}/{i}", ({"role": "user", "content": f"{domain} {i}"},), {}, domain, ()) for i in range(count)
    ]


DOMAINS = {"math": prompts("math", 10), "code": prompts("code", 30)}


def drawn(source: PromptSource, count: int, weights: dict[str, float] | None = None) -> list[str]:
    return [p.id for p in source.next_batch(count, weights or {"math": 1.0, "code": 1.0}, None)]


def test_the_order_is_a_function_of_the_seed_however_it_is_cut() -> None:
    whole = drawn(PromptSource(DOMAINS, 5), 60)
    source = PromptSource(DOMAINS, 5)
    assert [i for n in (1, 7, 52) for i in drawn(source, n)] == whole
    assert drawn(PromptSource(DOMAINS, 6), 60) != whole


def test_drawing_goes_on_from_the_state() -> None:
    source = PromptSource(DOMAINS, 5)
    first = drawn(source, 20)
    resumed = PromptSource(DOMAINS, 5, DrawState(dict(source.state.counts), dict(source.state.solved)))
    assert first + drawn(resumed, 40) == drawn(PromptSource(DOMAINS, 5), 60)


def test_every_prompt_comes_once_an_epoch_and_epochs_differ() -> None:
    source = PromptSource({"math": DOMAINS["math"]}, 0)
    epochs = [drawn(source, 10, {"math": 1.0}) for _ in range(3)]
    assert all(sorted(epoch) == sorted(p.id for p in DOMAINS["math"]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_domains_come_by_weight() -> None:
    counts = Counter(i.split("/")[0] for i in drawn(PromptSource(DOMAINS, 0), 2000, {"math": 3.0, "code": 1.0}))
    assert abs(counts["math"] / 2000 - 0.75) < 5 * (0.75 * 0.25 / 2000) ** 0.5


def test_solved_prompts_retire_and_come_back() -> None:
    source = PromptSource({"math": DOMAINS["math"]}, 0)
    for _ in range(2):
        source.record("math/3", solved=True)
    source.record("math/4", solved=True)
    ids = [p.id for p in source.next_batch(27, {"math": 1.0}, retire_after=2)]
    assert Counter(ids) == {f"math/{i}": 3 for i in range(10) if i != 3}
    source.record("math/3", solved=False)
    assert "math/3" in [p.id for p in source.next_batch(10, {"math": 1.0}, retire_after=2)]


def test_what_comes_next_is_told_without_moving_on() -> None:
    source = PromptSource(DOMAINS, 0)
    source.next_batch(7, dict.fromkeys(DOMAINS, 1.0), None)
    told = source.upcoming(5)
    assert told == source.upcoming(5) == [p.id for p in source.next_batch(5, dict.fromkeys(DOMAINS, 1.0), None)]


def test_when_all_are_retired_prompts_come_anyway() -> None:
    source = PromptSource({"math": DOMAINS["math"][:2]}, 0, DrawState(solved={"math/0": 9, "math/1": 9}))
    assert len(source.next_batch(3, {"math": 1.0}, retire_after=1)) == 3


def test_what_the_validation_has_is_left_out_of_the_training() -> None:
    other = Prompt("v/1", ({"role": "user", "content": " math 3\n"},), {}, "validation", ())
    assert [p.id for p in hold_out(DOMAINS["math"], [other])] == [f"math/{i}" for i in range(10) if i != 3]


def test_a_file_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [
        {"prompt": "2+2?", "task": {"kind": "math", "ground_truth": "4"}, "completions": ["ignored"]},
        {"id": "x", "prompt": [{"role": "system", "content": "s\u2028"}], "task": {"kind": "math"}},
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    source = SourceConfig(name="math", path=path, task={"extract": "any"})
    first, second = load_source(source, sample_words, tmp_path, "training")
    assert first.id == "training/math/1"
    assert first.messages == ({"role": "user", "content": "2+2?"},)
    assert first.task == {"kind": "math", "ground_truth": "4", "extract": "any"}
    assert (second.id, second.messages) == ("training/math/x", ({"role": "system", "content": "s\u2028"},))


@pytest.mark.parametrize(("count", "taken"), [(None, 1500), (3, 3)])
def test_of_a_file_all_prompts_are_taken_unless_told_otherwise(tmp_path: Path, count: int | None, taken: int) -> None:
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "task": {}}\n' * 1500)
    source = SourceConfig(name="m", path=tmp_path / "data.jsonl", count=count)
    assert len(load_source(source, sample_words, tmp_path, "training")) == taken


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"prompt": "a", "task": {}}\nnot json\n', "data.jsonl:2"),
        ('{"prompt": "a"}\n', "data.jsonl:1"),
        ("", "empty"),
        ('{"id": "a", "prompt": "a", "task": {}}\n' * 2, "same id twice"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_source(SourceConfig(name="m", path=tmp_path / "data.jsonl"), sample_words, tmp_path, "training")
    assert "\n" not in str(caught.value)


def test_a_procedural_source_is_asked_for_once(tmp_path: Path) -> None:
    source = SourceConfig(name="words", dataset="spell_backward", count=5)
    first = load_source(source, sample_words, tmp_path / "cache", "training")

    def refuse(_: SourceConfig) -> list[object]:
        raise AssertionError("asked again")

    assert load_source(source, refuse, tmp_path / "cache", "training") == first  # type: ignore[arg-type]
