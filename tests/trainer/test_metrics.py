"""What a step writes, and what is cut on resume."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.builders import group
from trainer.jsonl import read_jsonl, write_atomically
from trainer.measure import by_domain
from trainer.metrics import STEP_FIELDS, MetricsWriter, write_rollouts


def step_metrics(step: int, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(STEP_FIELDS, 0.5) | {"step": step, "era": 0} | more


def write_steps(run_dir: Path, steps: range, last_step: int = -1) -> None:
    writer = MetricsWriter(run_dir, last_step)
    for step in steps:
        writer.write(step_metrics(step, reward_mean=step / 10))
    writer.close()


def test_names_are_those_of_the_contract() -> None:
    contract = """step, era, reward_mean, reward_std, kl_ref, entropy, clip_low_frac, clip_high_frac, grad_norm,
        completion_tokens_mean, truncated_frac, kept_group_frac, reward_error_frac, logprob_mismatch_kl, tokens_per_s,
        time_generate_s, time_reward_s, time_update_s, time_sync_s"""
    assert list(STEP_FIELDS) == [name.strip() for name in contract.split(",")]


def test_one_object_a_step(tmp_path: Path) -> None:
    write_steps(tmp_path, range(3))
    assert read_jsonl(tmp_path / "metrics.jsonl") == [step_metrics(s, reward_mean=s / 10) for s in range(3)]


def test_a_step_is_on_disk_before_write_returns(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, last_step=-1)
    writer.write(step_metrics(0))
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == 1
    writer.close()


def test_a_missing_field_is_refused(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, last_step=-1)
    metrics = step_metrics(0)
    del metrics["kl_ref"], metrics["entropy"]
    with pytest.raises(ValueError, match="metrics lack kl_ref, entropy"):
        writer.write(metrics)
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_every_domain_has_its_numbers() -> None:
    math_groups = [group(0, (1.0, 0.0, None, 0.5)), group(1, (1.0, 1.0, 1.0, 1.0))]
    code = group(2, (None, None), domain="code")
    assert by_domain([*math_groups, code], math_groups[:1]) == {
        "code": {
            "reward_mean": pytest.approx(math.nan, nan_ok=True),
            "reward_std": pytest.approx(math.nan, nan_ok=True),
            "reward_error_frac": 1.0,
            "truncated_frac": 0.0,
            "completion_tokens_mean": 3.0,
            "kept_group_frac": 0.0,
            "num_completions": 2,
            "num_groups": 1,
        },
        "math": {
            "reward_mean": pytest.approx(5.5 / 7),
            "reward_std": pytest.approx(math.sqrt(5.25 / 7 - (5.5 / 7) ** 2)),
            "reward_error_frac": pytest.approx(1 / 8),
            "truncated_frac": 0.0,
            "completion_tokens_mean": 3.0,
            "kept_group_frac": 0.5,
            "num_completions": 8,
            "num_groups": 2,
        },
    }


def test_what_json_cannot_say_is_null(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, last_step=-1)
    writer.write(step_metrics(0, reward_mean=math.nan, domains={"math": {"reward_mean": math.inf}}))
    writer.close()
    (record,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert record["reward_mean"] is None
    assert record["domains"] == {"math": {"reward_mean": None}}


def test_resume_cuts_what_is_past_the_checkpoint(tmp_path: Path) -> None:
    write_steps(tmp_path, range(5))
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    for step in range(5):
        write_rollouts(tmp_path, step, [group(step, [1.0])], max_groups=1)
    write_steps(tmp_path, range(3, 4), last_step=2)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before[:4]
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [f"step-{s:06d}.jsonl" for s in range(3)]


def test_a_torn_last_line_goes(tmp_path: Path) -> None:
    write_steps(tmp_path, range(2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "era"')
    write_steps(tmp_path, range(2, 3), last_step=1)
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_tensorboard_mirrors_every_number(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, last_step=-1)
    writer.write(step_metrics(0, domains={"math": {"reward_mean": 0.25}}, note="text is left out"))
    writer.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == {*STEP_FIELDS, "domains/math/reward_mean"}
    assert [(event.step, event.value) for event in board.Scalars("domains/math/reward_mean")] == [(0, 0.25)]


def test_tensorboard_forgets_the_steps_that_were_cut(tmp_path: Path) -> None:
    write_steps(tmp_path, range(5))
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.0000000000.before"))  # files are read by name, which has seconds
    write_steps(tmp_path, range(3, 4), last_step=2)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("reward_mean")] == [0, 1, 2, 3]


def test_rollouts_hold_the_verdicts(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 7, [group(3, [1.0, None], domain="code"), group(4, [0.0])], max_groups=1)
    (record,) = read_jsonl(tmp_path / "rollouts" / "step-000007.jsonl")
    assert (record["step"], record["index"], record["prompt_id"], record["domain"]) == (7, 3, "p3", "code")
    assert record["messages"] == [{"role": "user", "content": "2+2?"}]
    first, second = record["rollouts"]
    assert (first["completion"], first["outcome"], first["reward"], first["reason"]) == ("text", "correct", 1.0, "test")
    assert (first["num_tokens"], first["truncated"], first["shaped_reward"]) == (3, False, 1.0)
    assert (second["outcome"], second["reward"]) == ("error", None)


def test_line_separators_in_text_split_no_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    write_atomically(path, json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False) + "\n")
    assert read_jsonl(path) == [{"text": "a\u2028b\x85c"}]


def test_an_atomic_write_leaves_no_draft(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    write_atomically(tmp_path / "file", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "new")]


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "absent.jsonl") == []
