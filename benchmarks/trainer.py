"""CPU seconds per trained completion and learning curves, next to trl's GRPOTrainer, in one run.

    python benchmarks/trainer.py compare --peer-python PEER_VENV/bin/python [--workload short|mixed] [--seeds 3]

The peer needs an environment with trl (1.16.0 was compared) and nothing of ours. Both sides get the same model folder,
prompts, reward function, completions a step, optimizer steps a step, precision (float32) and number of threads (1);
runs alternate. CPU seconds are those of the whole process between the second and the last step, so that start-up and
warm-up count for neither.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose trainer.py would hide the package


@dataclass(frozen=True)
class Workload:
    """What both sides train on."""

    warm_up_steps: int
    """Supervised steps of the model before; 0 leaves it random, and completions of any length."""
    num_steps: int
    prompts_per_step: int
    group_size: int
    updates_per_step: int
    max_tokens: int
    temperature: float
    learning_rate: float
    reward: str


WORKLOADS = {
    "short": Workload(100, 60, 16, 16, 4, 16, 1.2, 2e-4, "exact"),
    "mixed": Workload(0, 30, 4, 16, 2, 512, 1.0, 5e-4, "letters"),
}
CLIP_LOW, CLIP_HIGH, KL_COEF = 0.2, 0.4, 1e-4
LAST_STEPS = 20
"""Learning curves are compared by the mean reward of this many last steps."""


def exact(completion: str, answer: str) -> float:
    """1 for exactly one pair of answer tags with the answer between."""
    found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    return float(found == [answer])


def letters(completion: str, answer: str) -> float:
    """Share of ASCII letters: something that a random model can learn without knowing anything."""
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)


REWARDS = {"exact": exact, "letters": letters}


class Meter:
    """Notes CPU time and reward at the first reward call of every step."""

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.rewards: list[list[float]] = []
        self.lengths: list[int] = []

    def begin_step(self) -> None:
        self.marks.append(time.process_time())
        self.rewards.append([])

    def result(self, workload: Workload) -> dict[str, Any]:
        completions = workload.prompts_per_step * workload.group_size * (len(self.marks) - 2)
        deciles = statistics.quantiles(self.lengths, n=10)
        return {
            "cpu_ms_per_completion": 1000 * (self.marks[-1] - self.marks[1]) / completions,
            "rewards": [statistics.fmean(step) for step in self.rewards],
            "tokens_mean": statistics.fmean(self.lengths),
            "tokens_deciles": [round(deciles[0]), round(deciles[4]), round(deciles[8])],
        }


def prepare(folder: Path, workload: Workload) -> None:
    """The model, and the prompts with their answers, for both sides."""
    import reasoning_gym

    from trainer.demo import make_demo_model
    from trainer.run_config import DemoModelConfig
    from trainer.types import Prompt

    data = reasoning_gym.create_dataset("spell_backward", seed=1, size=4000, min_word_len=3, max_word_len=7)
    entries = [{"question": e["question"], "answer": e["answer"], "metadata": {}} for e in data]
    tasks = [{"kind": "logic", "dataset": "spell_backward", "entry": entry} for entry in entries]
    lines = [json.dumps({"prompt": t["entry"]["question"], "task": t}) + "\n" for t in tasks]
    (folder / "prompts.jsonl").write_text("".join(lines))
    prompts = [
        Prompt(str(i), ({"role": "user", "content": task["entry"]["question"]},), task, "spell")
        for i, task in enumerate(tasks)
    ]
    make_demo_model(prompts, DemoModelConfig(warm_up_steps=workload.warm_up_steps), folder / "model")


def run_ours(folder: Path, workload: Workload, seed: int) -> dict[str, Any]:
    """Our loop as it is, with a client that grades in this process instead of over HTTP."""
    from rich.console import Console

    from trainer.progress import Progress
    from trainer.run_config import RunConfig
    from trainer.train import train
    from verifier_service.schemas import Item, Outcome, ScoredItem, ScoreResponse, Verdict

    grade, meter, steps = REWARDS[workload.reward], Meter(), set()

    def verdict(reward: float) -> Verdict:
        outcome = {0.0: Outcome.INCORRECT, 1.0: Outcome.CORRECT}.get(reward, Outcome.PARTIAL)
        return Verdict(outcome=outcome, reward=reward, reason="graded", verifier="bench", verifier_version="1")

    class LocalClient:
        def score(self, items: list[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
            step = request_id.split("-")[-3]
            if step not in steps:
                steps.add(step)
                meter.begin_step()
            answer = items[0].task["entry"]["answer"]
            rewards = [grade(completion, answer) for completion in items[0].completions]
            meter.rewards[-1] += rewards
            return ScoreResponse(items=[ScoredItem(verdicts=[verdict(reward) for reward in rewards])])

    config = RunConfig.from_dict(
        {
            "run_dir": str(folder / f"ours-{seed}"),
            "seed": seed,
            "num_steps": workload.num_steps,
            "prompts_per_step": workload.prompts_per_step,
            "group_size": workload.group_size,
            "updates_per_step": workload.updates_per_step,
            "tokens_per_microbatch": 4096,
            "model": {"path": str(folder / "model"), "num_threads": 1},
            "sampling": {"temperature": workload.temperature, "max_tokens": workload.max_tokens},
            "optimizer": {"learning_rate": workload.learning_rate},
            "loss": {"clip_low": CLIP_LOW, "clip_high": CLIP_HIGH, "kl_coef": KL_COEF},
            "filter": {"dynamic_sampling": False},
            "reward": {"max_concurrency": 1},
            "checkpoint": {"every_steps": workload.num_steps},
            "data": {"sources": [{"name": "spell", "path": str(folder / "prompts.jsonl"), "count": 4000}]},
        }
    )
    train(config, LocalClient(), lambda source: [], Progress(Console(file=sys.stderr)))
    for path in sorted((folder / f"ours-{seed}" / "rollouts").iterdir()):
        groups = [json.loads(line) for line in path.read_text().splitlines()]
        meter.lengths += [rollout["num_tokens"] for group in groups for rollout in group["rollouts"]]
    return meter.result(workload)


def peer_settings(folder: Path, workload: Workload, seed: int) -> dict[str, Any]:
    """GRPOConfig with the same definitions; what else costs time is switched off."""
    return {
        "output_dir": str(folder / f"peer-{seed}"),
        "seed": seed,
        "max_steps": workload.num_steps * workload.updates_per_step,
        "per_device_train_batch_size": workload.prompts_per_step * workload.group_size // workload.updates_per_step,
        "steps_per_generation": workload.updates_per_step,
        "gradient_accumulation_steps": 1,
        "num_generations": workload.group_size,
        "max_completion_length": workload.max_tokens,
        "temperature": workload.temperature,
        "loss_type": "dapo",
        "epsilon": CLIP_LOW,
        "epsilon_high": CLIP_HIGH,
        "beta": KL_COEF,
        "use_bias_correction_kl": False,
        "scale_rewards": "group",
        "learning_rate": workload.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": workload.updates_per_step,
    }


def run_peer(folder: Path, workload: Workload, seed: int) -> dict[str, Any]:
    """trl's GRPOTrainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    grade, meter = REWARDS[workload.reward], Meter()

    def reward(
        completions: list[list[dict[str, str]]], answer: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float]:
        meter.begin_step()
        meter.lengths += map(len, completion_ids)
        rewards = [grade(c[0]["content"], a) for c, a in zip(completions, answer, strict=True)]
        meter.rewards[-1] += rewards
        return rewards

    tasks = [json.loads(line)["task"]["entry"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
    rows = [{"prompt": [{"role": "user", "content": t["question"]}], "answer": t["answer"]} for t in tasks]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=reward,
        args=GRPOConfig(**peer_settings(folder, workload, seed)),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    trainer.train()
    return meter.result(workload)


def run_side(side: str, python: str, name: str, workload: Workload, folder: Path, seed: int) -> dict[str, Any]:
    """One run in a process of its own."""
    out = folder / f"{side}-{seed}.json"
    command = [python, __file__, side, "--workload", name, "--folder", str(folder), "--seed", str(seed)]
    command += ["--steps", str(workload.num_steps), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(out.read_text())
    last = statistics.fmean(result["rewards"][-LAST_STEPS:])
    print(
        f"{side:<5} seed {seed}  {result['cpu_ms_per_completion']:7.2f} CPU ms a completion  "
        f"tokens {result['tokens_mean']:.0f} {result['tokens_deciles']}  "
        f"reward first {result['rewards'][0]:.3f}  last {LAST_STEPS} steps {last:.3f}",
        flush=True,
    )
    return result | {"last": last}


def compare(name: str, workload: Workload, peer_python: str, num_seeds: int) -> None:
    print(f"{name}: {asdict(workload)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, workload)
        shown = {k: v for k, v in peer_settings(Path("."), workload, 0).items() if k not in ("output_dir", "seed")}
        print(f"peer's settings: {shown}", flush=True)
        results: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
        for seed in range(num_seeds):
            for side, python in (("ours", sys.executable), ("peer", peer_python)):
                results[side].append(run_side(side, python, name, workload, folder, seed))
    costs = {side: statistics.fmean(r["cpu_ms_per_completion"] for r in runs) for side, runs in results.items()}
    print(f"CPU a completion, ours / peer: {costs['ours'] / costs['peer']:.3f}")
    if num_seeds > 1:
        lasts = {side: [r["last"] for r in runs] for side, runs in results.items()}
        error = sum(statistics.variance(values) / num_seeds for values in lasts.values()) ** 0.5
        difference = statistics.fmean(lasts["ours"]) - statistics.fmean(lasts["peer"])
        print(f"reward of the last {LAST_STEPS} steps, ours - peer: {difference:+.4f}, standard error {error:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("compare", "ours", "peer"))
    parser.add_argument("--workload", choices=WORKLOADS, default="short")
    parser.add_argument("--steps", type=int, help="training steps of a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peer-python", help="interpreter of an environment with trl")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    workload = WORKLOADS[arguments.workload]
    if arguments.steps:
        workload = Workload(**asdict(workload) | {"num_steps": arguments.steps})
    if arguments.what == "compare":
        if not arguments.peer_python:
            parser.error("compare needs --peer-python")
        compare(arguments.workload, workload, arguments.peer_python, arguments.seeds)
        return
    run = run_ours if arguments.what == "ours" else run_peer
    arguments.out.write_text(json.dumps(run(arguments.folder, workload, arguments.seed)))


if __name__ == "__main__":
    main()
