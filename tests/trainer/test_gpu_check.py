"""The check for machines with a GPU: its numbers by hand, and its checks on the CPU with tiny models."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from scripts import gpu_check, gpu_sections, gpu_vllm
from scripts.gpu_check import table
from scripts.gpu_sections import Result, forward_flops, mfu_result
from tests.trainer.vllm_models import NEEDS_VLLM
from trainer.parallel import ALONE

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "model": {"num_threads": 1, "demo": {"warm_up_steps": 2, "hidden_size": 64, "num_layers": 1}},
    "prompts_per_step": 4,
    "group_size": 4,
    "filter": {"dynamic_sampling": False},
}


def qwen2(**changes: int) -> Qwen2Config:
    sizes = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1}
    return Qwen2Config(**(sizes | {"num_attention_heads": 2, "num_key_value_heads": 1} | changes))


def test_flops_by_hand() -> None:
    # A layer's weights: q 4x4, k 4x2, v 4x2, o 4x4, three of 4x8: 144. Head: 4x10. Two heads of 2.
    assert forward_flops(qwen2(), [3], 2) == 2 * 144 * 3 + 2 * 40 * 2 + 2 * 2 * 2 * 9
    assert forward_flops(qwen2(num_hidden_layers=2), [3, 1], 0) == 2 * (2 * 144 * 4 + 2 * 2 * 2 * (9 + 1))


def test_flops_of_one_token_are_twice_the_published_parameters() -> None:
    assert forward_flops(gpu_sections.QWEN2_1_5B, [1], 1) / 2 == pytest.approx(1.54e9, rel=0.01)


def test_the_microbatch_has_8192_tokens() -> None:
    assert sum(gpu_sections.LENGTHS) == 8192


def test_utilisation_is_rate_over_peak() -> None:
    assert mfu_result("x", 80.0, 2.0, 100.0, 0.4) == Result("x, MFU", "40.0% (0 of 0 TFLOP/s)", ">= 40%", True)
    assert mfu_result("x", 80.0, 2.1, 100.0, 0.4).passed is False
    assert mfu_result("x", 80.0, 2.0, None, 0.4).passed is None


def test_the_table_says_what_failed_and_what_did_not_run() -> None:
    lines = table([Result("a", "1", "< 2", True), Result("b", "3", "< 2", False), Result("c", "not run: why")], "t")
    assert [line.split("|")[4].strip() for line in lines.splitlines()[4:]] == ["ok", "FAILED", "-"]


def test_without_a_gpu_it_ends_with_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_check", "--out", str(tmp_path / "out")])
    assert gpu_check.main() == 1
    assert capsys.readouterr().err == "gpu-check: no CUDA device\n"
    assert list(tmp_path.iterdir()) == []


def test_numbers_agree_and_a_wrong_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [result.passed for result in gpu_sections.check_numbers(CPU)] == [True] * 6
    true = gpu_sections.loss_and_gradients

    def off(model: Any, *rest: Any) -> Any:
        if model.dtype != torch.float64:
            model.model.layers[1].mlp.up_proj.weight.data *= 1.1
        return true(model, *rest)

    monkeypatch.setattr(gpu_sections, "loss_and_gradients", off)
    assert next(gpu_sections.check_numbers(CPU)).passed is False


def test_utilisation_is_measured_of_both_passes() -> None:
    update, logprobs = gpu_sections.measure_mfu(ALONE, qwen2(hidden_size=16, vocab_size=64), (12, 8), 2)
    assert (update.name, logprobs.name) == ("update, MFU", "log-probability pass, MFU")
    assert "TFLOP/s" in update.value


def test_a_run_with_reset_and_resume_passes() -> None:
    [result] = gpu_sections.check_run(CPU, 2, **TINY)
    assert result.passed, result


def test_growing_memory_and_a_lost_reward_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sections, "demo_run", seen)
    assert list(gpu_sections.check_long_run(CPU, 4, 60.0)) == [
        Result("memory over 4 steps with resets", "+3.0%", "< 2%", False),
        Result("reward over 4 steps with resets, first and last quarter", "0.500, 0.250", "no lower", False),
    ]


def test_a_long_run_whose_time_is_up_says_how_far_it_came_and_passes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sections, "demo_run", seen)
    memory, reward = gpu_sections.check_long_run(CPU, 2000, 60.0)
    assert memory == Result("memory over 4 steps with resets (of 2,000: the time was up)", "+3.0%", "< 2%", None)
    assert reward.passed is None


def seen(folder: Path, watching: gpu_sections.Watching, num_steps: int, **_: Any) -> None:
    watching.bytes += [9, 100, 100, 103]
    watching.rewards += [0.5, 0.9, 0.9, 0.25]


def test_a_run_ends_where_its_time_is_up() -> None:
    with pytest.raises(RuntimeError, match="1 steps in 0 s are too few"):
        list(gpu_sections.check_long_run(CPU, 50, 0.0, **TINY))


@pytest.mark.soak
def test_two_thousand_steps() -> None:
    """With a reset every hundred, on the CPU: neither does this process grow nor the policy collapse."""
    model = {"num_threads": 1, "demo": {"warm_up_steps": 120, "num_layers": 2}}
    results = gpu_sections.check_long_run(CPU, 2000, 7000.0, **(TINY | {"model": model, "group_size": 8}))
    assert all(result.passed for result in results), results


ROW = {"name": "a", "value": "1", "wanted": "< 2", "passed": True}


def after_good(what: str) -> list[str]:
    """A section's process that tells of a good result, and then does something else."""
    code = (
        f"import os, sys, time\nwith open(sys.argv[-1], 'w') as told:\n print({json.dumps(json.dumps(ROW))}, file=told)"
    )
    return [sys.executable, "-c", f"{code}\n{what}"]


SECTIONS = {
    "good": after_good(""),
    "raises": after_good("raise RuntimeError('no kernel')"),
    "crashes": after_good("os.abort()"),
    "hangs": after_good("time.sleep(600)"),
    "last": after_good(""),
}


def test_what_was_found_before_a_check_broke_is_told(tmp_path: Path) -> None:
    def results() -> Iterator[Result]:
        yield Result(**ROW)
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError):
        gpu_check.tell(results(), tmp_path / "told")
    assert json.loads((tmp_path / "told").read_text()) == ROW


def test_no_section_that_breaks_keeps_the_others_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it found before is kept."""
    monkeypatch.setattr(gpu_check, "GRACE_S", 0.0)
    limits = dict.fromkeys(SECTIONS, 45.0)
    limits["hangs"] = 5.0
    assert not gpu_check.check_all(limits, lambda name, _: SECTIONS[name], tmp_path / "out", "t", 60.0)
    found = [Result(**row) for row in json.loads((tmp_path / "out.json").read_text())]
    assert [result.name for result in found] == ["a", "a", "raises", "a", "crashes", "a", "hangs", "a"]
    assert [r.value for r in found if not r.passed] == [
        "ended with 1: RuntimeError: no kernel",
        next(r.value for r in found if r.name == "crashes"),
        "not done in 5 s",
    ]
    assert "ended with -6" in (tmp_path / "out.md").read_text()


def test_what_time_is_left_out_is_said(tmp_path: Path) -> None:
    limits = dict.fromkeys(SECTIONS, 45.0)
    assert gpu_check.check_all(limits, lambda name, _: SECTIONS[name], tmp_path / "out", "t", 0.0)
    assert (tmp_path / "out.md").read_text().count("not run: 0 minutes were up") == len(SECTIONS)


def test_an_interrupted_check_leaves_its_files_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    true = subprocess.Popen.wait

    def wait(process: Any, timeout: float | None = None) -> int:
        if timeout is None:
            return true(process)
        started.append(process)
        if len(started) == 2:
            raise KeyboardInterrupt
        return true(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)
    limits = {"good": 45.0, "hangs": 45.0, "last": 45.0}
    with pytest.raises(KeyboardInterrupt):
        gpu_check.check_all(limits, lambda name, _: SECTIONS[name], tmp_path / "out", "t", 60.0)
    assert started[1].returncode == -9
    found = [Result(**row) for row in json.loads((tmp_path / "out.json").read_text())]
    assert [(r.name, r.value) for r in found] == [("a", "1"), *((n, "not run: interrupted") for n in ("hangs", "last"))]


def test_a_sections_process_tells_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sections(num_steps: int) -> dict[str, gpu_check.Section]:
        given = f"{num_steps} steps"
        return {"x": gpu_check.Section(lambda seconds: [Result(given, f"{seconds:g} s")], 1.0)}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "sections", sections)
    arguments = ["--quick", "--section", "x", "--seconds", "5", "--tell", str(tmp_path / "told")]
    monkeypatch.setattr("sys.argv", ["gpu_check", *arguments])
    assert gpu_check.main() == 0
    assert Result(**json.loads((tmp_path / "told").read_text())) == Result("200 steps", "5 s")


def test_the_long_run_comes_last() -> None:
    """It takes whatever time is left."""
    assert list(gpu_check.sections(2000))[-1] == "a long run"


def test_without_vllm_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_vllm, "has_vllm", lambda: False)
    for results in (
        gpu_vllm.check_vllm_pushes(CPU),
        gpu_vllm.check_vllm_run(CPU),
        gpu_vllm.check_vllm_run(CPU, ["1"]),
    ):
        [result] = results
        assert result.passed is None
        assert "not installed" in result.value


class TestWithVllm:
    pytestmark = NEEDS_VLLM

    def test_pushes_are_checked_also_on_a_cpu(self) -> None:
        *pushes, sleep = gpu_vllm.check_vllm_pushes(CPU)
        assert [result.passed for result in pushes] == [True] * 3, pushes
        assert sleep.value == "not run: on a CPU nothing sleeps"
