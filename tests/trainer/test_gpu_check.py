"""The check for machines with a GPU: its numbers by hand, and its checks on the CPU with tiny models."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config

from scripts import gpu_check
from scripts.gpu_check import Result, forward_flops, mfu_result, table
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
    assert forward_flops(gpu_check.QWEN2_1_5B, [1], 1) / 2 == pytest.approx(1.54e9, rel=0.01)


def test_the_microbatch_has_8192_tokens() -> None:
    assert sum(gpu_check.LENGTHS) == 8192


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
    assert [result.passed for result in gpu_check.check_numbers(CPU)] == [True] * 6
    true = gpu_check.loss_and_gradients

    def off(model: Any, *rest: Any) -> Any:
        if model.dtype != torch.float64:
            model.model.layers[1].mlp.up_proj.weight.data *= 1.1
        return true(model, *rest)

    monkeypatch.setattr(gpu_check, "loss_and_gradients", off)
    assert gpu_check.check_numbers(CPU)[0].passed is False


def test_utilisation_is_measured_of_both_passes() -> None:
    update, logprobs = gpu_check.measure_mfu(ALONE, qwen2(hidden_size=16, vocab_size=64), (12, 8), 2)
    assert (update.name, logprobs.name) == ("update, MFU", "log-probability pass, MFU")
    assert "TFLOP/s" in update.value


def test_a_run_with_reset_and_resume_passes() -> None:
    [result] = gpu_check.check_run(CPU, 2, **TINY)
    assert result.passed, result


def test_growing_memory_and_a_lost_reward_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = SimpleNamespace(bytes=[9, 100, 100, 103], rewards=[0.5, 0.9, 0.9, 0.25])
    monkeypatch.setattr(gpu_check, "demo_run", lambda *_, **__: seen)
    assert gpu_check.check_long_run(CPU, 4) == [
        Result("memory over 4 steps with resets", "+3.0%", "< 2%", False),
        Result("reward over 4 steps with resets, first and last quarter", "0.500, 0.250", "no lower", False),
    ]


@pytest.mark.soak
def test_two_thousand_steps() -> None:
    """With a reset every hundred, on the CPU: neither does this process grow nor the policy collapse."""
    model = {"num_threads": 1, "demo": {"warm_up_steps": 120, "num_layers": 2}}
    results = gpu_check.check_long_run(CPU, 2000, **(TINY | {"model": model, "group_size": 8}))
    assert all(result.passed for result in results), results


def test_a_check_that_breaks_is_a_failure_and_no_end() -> None:
    def broken() -> list[Result]:
        raise RuntimeError("no kernel\nmore")

    assert gpu_check.attempt(broken, "x") == [Result("x", "RuntimeError: no kernel", "", False)]


def test_results_can_be_read_by_programs() -> None:
    assert json.loads(json.dumps([gpu_check.asdict(Result("a", "1"))])) == [
        {"name": "a", "value": "1", "wanted": "", "passed": None}
    ]
