"""The trainer measured: CPU and learning curves next to trl's GRPOTrainer, hidden reward time, overhead.

    python benchmarks/trainer.py compare --peer-python PEER_VENV/bin/python [--workload short|mixed] [--seeds 3]
    python benchmarks/trainer.py hidden      # reward time hidden behind generation, with a verifier as slow as it
    python benchmarks/trainer.py overhead    # share of a step that checkpoints, proofs and metrics take
    python benchmarks/trainer.py             # both of them

The peer needs an environment with trl (1.16.0 was compared) and nothing of ours. Both sides get the same model folder,
prompts, reward function, completions a step, optimizer steps a step, precision (float32) and number of threads (1);
runs alternate. CPU seconds are those of the whole process between the second and the last step, so that start-up and
warm-up count for neither. Three seeds take half an hour for `short` and an hour and a half for `mixed` on a quiet core.

Hidden is reward time in which the step did not stand still: 1 - time_reward_s / time_reward_busy_s of metrics.jsonl.
The grader judges one group after the other, each in the time that a run without delays needs to generate a group.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose trainer.py would hide the package

from verifier_service.schemas import (  # noqa: E402
    Item,
    Outcome,
    SampledItem,
    ScoredItem,
    ScoreResponse,
    Verdict,
)


@dataclass(frozen=True)
class Workload:
    """What both sides train on."""

    warm_up_steps: int
    """Supervised steps of the model before; 1 leaves it next to random, with completions of any length."""
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
    "mixed": Workload(1, 30, 4, 16, 2, 512, 1.0, 5e-4, "letters"),
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
        if len(self.marks) % 5 == 0:
            print(f"  step {len(self.marks)}, {self.marks[-1]:.0f} s of CPU", file=sys.stderr, flush=True)

    def result(self, workload: Workload) -> dict[str, Any]:
        completions = workload.prompts_per_step * workload.group_size * (len(self.marks) - 2)
        deciles = statistics.quantiles(self.lengths, n=10)
        return {
            "cpu_ms_per_completion": 1000 * (self.marks[-1] - self.marks[1]) / completions,
            "rewards": [statistics.fmean(step) for step in self.rewards],
            "tokens_mean": statistics.fmean(self.lengths),
            "tokens_deciles": [round(deciles[0]), round(deciles[4]), round(deciles[8])],
        }


def spell_items() -> list[SampledItem]:
    """The demo's task, as the service would sample it."""
    import reasoning_gym

    data = reasoning_gym.create_dataset("spell_backward", seed=1, size=4000, min_word_len=3, max_word_len=7)
    entries = [{"question": e["question"], "answer": e["answer"], "metadata": {}} for e in data]
    tasks = [{"kind": "logic", "dataset": "spell_backward", "entry": entry} for entry in entries]
    return [SampledItem(prompt=task["entry"]["question"], task=task) for task in tasks]


def prepare(folder: Path, workload: Workload) -> None:
    """The model, and the prompts with their answers, for both sides."""
    from trainer.demo import make_demo_model
    from trainer.run_config import DemoModelConfig
    from trainer.types import Prompt

    items = spell_items()
    (folder / "prompts.jsonl").write_text("".join(item.model_dump_json() + "\n" for item in items))
    prompts = [
        Prompt(str(i), ({"role": "user", "content": str(item.prompt)},), item.task, "spell", ())
        for i, item in enumerate(items)
    ]
    make_demo_model(prompts, DemoModelConfig(warm_up_steps=workload.warm_up_steps), folder / "model")


class LocalClient:
    """Grades in this process instead of over HTTP, one group after the other, each in no less than `delay_s`."""

    def __init__(self, grade: Callable[[str, str], float], meter: Meter | None = None, delay_s: float = 0.0) -> None:
        self._grade, self._meter, self._delay_s = grade, meter, delay_s
        self._steps: set[str] = set()
        self._grader = threading.Lock()

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        with self._grader:
            return self._score(items, request_id)

    def _score(self, items: Sequence[Item], request_id: str) -> ScoreResponse:
        time.sleep(self._delay_s)
        answer = items[0].task["entry"]["answer"]
        rewards = [self._grade(completion, answer) for completion in items[0].completions]
        if self._meter:
            step = request_id.split("-")[-3]
            if step not in self._steps:
                self._steps.add(step)
                self._meter.begin_step()
            self._meter.rewards[-1] += rewards
        return ScoreResponse(items=[ScoredItem(verdicts=[verdict(reward) for reward in rewards])])


def verdict(reward: float) -> Verdict:
    outcome = {0.0: Outcome.INCORRECT, 1.0: Outcome.CORRECT}.get(reward, Outcome.PARTIAL)
    return Verdict(outcome=outcome, reward=reward, reason="graded", verifier="bench", verifier_version="1")


def train_here(source: dict[str, Any], client: LocalClient) -> list[dict[str, Any]]:
    """Our loop as it is; returns the metrics of all steps."""
    from rich.console import Console

    from trainer.progress import Progress
    from trainer.run_config import RunConfig
    from trainer.train import train

    config = RunConfig.model_validate(source)
    train(config, client, lambda _: spell_items(), Progress(Console(quiet=True)))
    return [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]


def run_ours(folder: Path, workload: Workload, seed: int) -> dict[str, Any]:
    meter = Meter()
    source = {
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
    train_here(source, LocalClient(REWARDS[workload.reward], meter))
    for path in sorted((folder / f"ours-{seed}" / "rollouts").iterdir()):
        groups = [json.loads(line) for line in path.read_text().splitlines()]
        meter.lengths += [rollout["num_tokens"] for group in groups for rollout in group["rollouts"]]
    return meter.result(workload)


def demo_source(folder: Path, num_steps: int) -> dict[str, Any]:
    """The demo's config without validation and reset."""
    source = tomllib.loads((ROOT / "configs" / "demo.toml").read_text())
    del source["validation"], source["reset"]
    return source | {"run_dir": str(folder), "num_steps": num_steps}


HIDDEN_VARIANTS: list[dict[str, Any]] = [
    {},
    {"filter": {"oversample": 1.0}},
    {"engine": {"max_rows": 256}},
    {"engine": {"max_rows": 32}},
]


def hidden(num_steps: int) -> None:
    """The demo with one grader that takes, for all groups of a step, as long as generating them."""
    for settings in HIDDEN_VARIANTS:
        with tempfile.TemporaryDirectory() as temporary:
            source = demo_source(Path(temporary) / "quick", num_steps) | settings
            quick = train_here(source, LocalClient(exact))
            delay_s = sum(m["time_generate_s"] for m in quick) / sum(m["num_groups"] for m in quick)
            slow = train_here(source | {"run_dir": temporary + "/slow"}, LocalClient(exact, delay_s=delay_s))
        busy, wait, generate, steps, groups = (
            sum(m[name] for m in slow)
            for name in ("time_reward_busy_s", "time_reward_s", "time_generate_s", "time_step_s", "num_groups")
        )
        print(
            f"{settings or 'demo as it is'}: {groups / num_steps:.1f} groups a step, generation {generate:.2f} s, "
            f"rewards {busy:.2f} s, waited for {wait:.2f} s: {1 - wait / busy:.1%} hidden; all steps {steps:.2f} s",
            flush=True,
        )


def overhead(num_steps: int) -> None:
    """The demo with every checkpoint, proof and metric timed where it is called."""
    from trainer import metrics, run, train, weight_sync

    spent: dict[str, float] = defaultdict(float)

    def timed(owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            begun = time.monotonic()
            try:
                return inner(*args, **kwargs)
            finally:
                spent[label] += time.monotonic() - begun

        setattr(owner, name, outer)

    timed(metrics.MetricsWriter, "write", "metrics")
    timed(train, "step_metrics", "metrics")
    timed(run, "write_rollouts", "rollouts")
    timed(run.Checkpoints, "save", "checkpoints")
    timed(weight_sync.Probe, "by_policy", "proofs")
    timed(weight_sync.Probe, "by_engine", "proofs")
    with tempfile.TemporaryDirectory() as temporary:
        records = train_here(demo_source(Path(temporary) / "run", num_steps), LocalClient(exact))
    total = sum(m["time_step_s"] for m in records) + spent["checkpoints"]
    for label, seconds in sorted(spent.items()):
        print(f"{label:<12} {seconds:6.3f} s  {seconds / total:6.2%} of all steps")
    print(f"{'together':<12} {sum(spent.values()):6.3f} s  {sum(spent.values()) / total:6.2%} of {total:.1f} s")


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
    environment |= {"TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    print(f"{side}, seed {seed}", file=sys.stderr, flush=True)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
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
    parser.add_argument("what", nargs="?", choices=("compare", "hidden", "overhead", "ours", "peer"))
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
    if arguments.what in ("hidden", "overhead", None):
        for name, measure in (("hidden", hidden), ("overhead", overhead)):
            if arguments.what in (name, None):
                measure(arguments.steps or 20)
        return
    run = run_ours if arguments.what == "ours" else run_peer
    arguments.out.write_text(json.dumps(run(arguments.folder, workload, arguments.seed)))


if __name__ == "__main__":
    main()
