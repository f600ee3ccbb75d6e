"""The command `trainer run` with prompts and rewards from a real service."""

import json
from pathlib import Path

from tests.verifier_service.service_process import ServiceProcess
from trainer.cli import main
from trainer.ledger import read_ledger

ROOT = Path(__file__).parents[2]


def test_the_demo_config_runs_against_the_service(service: ServiceProcess, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = '[{name = "words", dataset = "spell_backward", seed = %d, count = %d, task = {reward_mode = "strict"}}]'
    settings = [
        f"run_dir={run_dir}",
        f"reward.url={service.url}",
        "num_steps=2",
        "prompts_per_step=4",
        "group_size=4",
        "model.demo.warm_up_steps=5",
        "filter.dynamic_sampling=false",
        "data.sources=" + words % (1, 30),
        "validation.sources=" + words % (2, 5),
        "reset.every_steps=1",
    ]
    assert main(["run", str(ROOT / "configs" / "demo.toml"), *(w for s in settings for w in ("--set", s))]) == 0
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["era"], line["reward_error_frac"]) for line in lines] == [(1, 0, 0), (2, 1, 0)]
    rollouts = [
        json.loads(line) for path in (run_dir / "rollouts").iterdir() for line in path.read_text().split("\n")[:-1]
    ]
    assert len(rollouts) == 8
    reasons = {rollout["reason"] for line in rollouts for rollout in line["rollouts"]}
    assert reasons <= {"solved", "not_solved", "no_answer"}
    finish = read_ledger(run_dir)[-1]
    assert finish.event == "finish"
    assert set(finish.verifier_versions) == {"logic"}
