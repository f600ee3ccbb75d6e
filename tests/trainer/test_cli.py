"""The command `trainer`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.trainer.tiny import run_config, train_quietly
from trainer.checkpoint import Checkpoints
from trainer.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    train_quietly(run_config(folder, reset__every_steps=2))
    return folder


def test_help_answers_without_importing_torch() -> None:
    code = "import sys; from trainer.cli import parser; parser().format_help(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["run", "nowhere.toml"], 2, "nowhere.toml: No such file"),
        (["run", str(ROOT / "configs" / "demo.toml"), "--set", "seeed=1"], 2, "seeed: Extra inputs"),
        (["run", str(ROOT / "configs" / "demo.toml"), "--set", "reward.url=localhost:8000"], 2, "reward.url: "),
        (
            ["run", str(ROOT / "configs" / "demo.toml"), "--set", "run_dir=/dev/null/x"],
            2,
            "/dev/null/x: Not a directory",
        ),
        (
            ["run", str(ROOT / "configs" / "dapo-qwen.toml"), "--set", "reset.kl_ceiling=1"],
            2,
            "dapo-qwen.toml: config: ",
        ),
        (["lineage", "nowhere"], 2, "nowhere is not a run directory"),
        (["report", "nowhere"], 2, "nowhere is not a run directory"),
        (["export", "nowhere", "out"], 2, "nowhere is not a run directory"),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, complaint: str
) -> None:
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_no_command_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_a_service_out_of_reach_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    settings = ["reward.url=http://127.0.0.1:9", "reward.patience_s=0.1", f"run_dir={tmp_path}"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", str(ROOT / "configs" / "demo.toml"), *arguments]) == 1
    assert "data source spell_backward: the service cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize("step", [2, 4])
def test_an_exported_policy_is_the_policy(run_dir: Path, tmp_path: Path, step: int) -> None:
    """transformers alone gives the log-probabilities that the checkpoint recorded, which are at temperature 1."""
    assert main(["export", str(run_dir), "--step", str(step), str(tmp_path / "out")]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    run = train_quietly(run_config(run_dir, reset__every_steps=2))  # over, so this only opens it
    recorded = Checkpoints(run_dir, 2).load(step).fingerprint["policy"]
    for sequence, expected in zip(run.probe.sequences, recorded, strict=True):
        logits = model(input_ids=torch.tensor([sequence])).logits[0, :-1]
        found = torch.log_softmax(logits.float(), -1).gather(-1, torch.tensor(sequence[1:])[:, None])[:, 0]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    ) == ("<|user|>x<|end|><|assistant|>")


def test_report_and_lineage(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run_dir)]) == 0
    assert (run_dir / "report.html").is_file()
    capsys.readouterr()
    assert main(["lineage", str(run_dir)]) == 0
    [_, first, second] = capsys.readouterr().out.splitlines()  # one line an era, also where no terminal is
    assert "era 0" in first
    assert "era 1" in second
