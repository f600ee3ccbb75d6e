"""What `make gpu-check` checks and measures without vLLM; scripts/gpu_check.py runs it section by section."""

import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PretrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.trainer import LocalClient, exact, spell_items
from trainer.batch import build_batch, pack, to_device
from trainer.config import LossConfig, OptimizerConfig
from trainer.ledger import read_ledger
from trainer.loss import GlobalCounts, LossInputs, policy_loss
from trainer.parallel import Ranks
from trainer.policy import Policy
from trainer.progress import Progress
from trainer.run_config import RunConfig
from trainer.sharding import checkpoint_activations, compile_layers, kept_whole, shard
from trainer.train import train
from trainer.types import TrainingSample
from trainer.update import make_optimizer, update_policy

ROOT = Path(__file__).resolve().parent.parent
PEAK_FLOPS = {"H100": 989.4e12, "H200": 989.4e12, "GH200": 989.4e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16, from NVIDIA's data sheets (SXM; half of what is printed with sparsity)."""
QWEN2_1_5B = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
LENGTHS = (4096, 2048, 1024, 512, 256, 256)
"""Sequences of a packed microbatch: 8,192 tokens."""
PROMPT_TOKENS = 64


@dataclass(frozen=True)
class Result:
    """A line of the table. `passed` None: not run, and `value` says why, or measured without a mark to reach."""

    name: str
    value: str
    wanted: str = ""
    passed: bool | None = None


def forward_flops(config: PretrainedConfig, lengths: Sequence[int], num_predicted: int) -> float:
    """FLOPs of a forward pass over sequences of these lengths, two a multiply-add (PaLM, arXiv 2204.02311, appendix B).

    Matrices: 2 a weight and token, the head for predicted tokens only. Attention: scores and values together
    4 L^2 heads head_dim a layer, half of it because it is causal (FlashAttention-2, arXiv 2307.08691, section 4.1).
    """
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    head_dim = getattr(config, "head_dim", None) or width // heads
    layer = width * head_dim * (2 * heads + 2 * kv_heads) + 3 * width * config.intermediate_size
    matrices = 2.0 * config.num_hidden_layers * layer * sum(lengths) + 2.0 * width * config.vocab_size * num_predicted
    attention = 2.0 * config.num_hidden_layers * heads * head_dim * sum(length**2 for length in lengths)
    return matrices + attention


def samples_of(lengths: Sequence[int], vocabulary: int, prompt_tokens: int = PROMPT_TOKENS) -> list[TrainingSample]:
    """Random tokens, the same every time."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for i, length in enumerate(lengths):
        ids = tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())
        logprobs = (-1.0,) * (length - prompt_tokens)
        samples.append(TrainingSample(i, ids[:prompt_tokens], ids[prompt_tokens:], logprobs, (-1.0) ** i))
    return samples


def loss_and_gradients(model: PreTrainedModel, samples: Sequence[TrainingSample], device: torch.device) -> Any:
    """Loss, log-probabilities and gradients by name, on the CPU in float64."""
    policy = Policy(model, 1.2)
    batch = to_device(pack(samples), device)
    logprobs, entropy = policy.logprobs_and_entropy(batch)
    inputs = LossInputs(
        policy_logprobs=logprobs,
        old_logprobs=None,
        rollout_logprobs=batch.rollout_logprobs.to(logprobs.dtype),
        ref_logprobs=(logprobs - 0.1).detach(),
        entropy=entropy,
        advantages=batch.advantages.to(logprobs.dtype),
        loss_mask=batch.loss_mask,
        sequence_ids=batch.sequence_ids,
    )
    loss, _ = policy_loss(inputs, GlobalCounts(len(batch.targets), len(samples)), LossConfig())
    loss.backward()
    gradients = {n: p.grad.double().cpu() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach().double().cpu(), logprobs.detach().double().cpu(), gradients


def check_numbers(device: torch.device) -> Iterator[Result]:
    """Loss, log-probabilities and gradients of a small model against the CPU in float64."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, initializer_range=0.1, tie_word_embeddings=True))
    samples = samples_of((96, 64, 33), 512, 8)
    loss, logprobs, gradients = loss_and_gradients(deepcopy(model).double(), samples, torch.device("cpu"))
    for dtype, wanted in ((torch.float32, 1e-3), (torch.bfloat16, 0.2)):
        moved = deepcopy(model)
        torch.nn.Module.to(moved, device)
        for parameter in moved.parameters():  # and not the rotary frequencies, which stay in float32
            parameter.data = parameter.data.to(dtype)
        found, found_logprobs, found_gradients = loss_and_gradients(moved, samples, device)
        errors = [(found_gradients[n] - g).norm() / g.norm() for n, g in gradients.items()]
        for what, error in (
            ("log-probabilities, largest difference", float((found_logprobs - logprobs).abs().max())),
            ("loss, difference", float((found - loss).abs())),
            ("gradients, largest relative difference", float(max(errors))),
        ):
            yield Result(f"{dtype}: {what}", f"{error:.2g}", f"< {wanted:g}", error < wanted)


class TimeIsUp(Exception):
    """A run has gone on for as long as it was given."""


class Watching(Progress):
    """Notes reward and the device's memory after every step; for the CPU that of this process."""

    def __init__(self, device: torch.device, seconds: float = math.inf) -> None:
        super().__init__(Console(file=StringIO()))
        self.bytes: list[int] = []
        self.rewards: list[float] = []
        self._device, self._until = device, time.monotonic() + seconds

    def show(self, metrics: Any) -> None:
        super().show(metrics)
        self.rewards.append(metrics["reward_mean"])
        if self._device.type == "cuda":
            self.bytes.append(torch.cuda.memory_allocated(self._device))
        else:
            resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.bytes.append(resident_pages * os.sysconf("SC_PAGE_SIZE"))
        if time.monotonic() > self._until:
            raise TimeIsUp


def demo_run(folder: Path, watching: Watching, num_steps: int, **settings: Any) -> None:
    """The demo's config without its validation, the reference in host memory, rewards graded here."""
    source = tomllib.loads((ROOT / "configs" / "demo.toml").read_text())
    del source["validation"]
    source["model"]["offload_reference"] = True
    source |= {"run_dir": str(folder), "num_steps": num_steps} | settings
    train(RunConfig.model_validate(source), LocalClient(exact), lambda _: spell_items(), watching)


def check_run(device: torch.device, num_steps: int = 6, **settings: Any) -> Iterator[Result]:
    """A run with a reset half-way that is opened again and goes on; it proves resets, syncs and resumes by itself."""
    reset = settings | {"reset": {"every_steps": num_steps // 2}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        demo_run(folder, Watching(device), num_steps, **reset)
        demo_run(folder, Watching(device), num_steps + 2, **reset)
        events = [entry.event for entry in read_ledger(folder)]
    passed = events.count("resume") == 1 and events.count("reset") >= 2
    yield Result("run with reset and resume, each proven", ", ".join(events), "a resume and its resets", passed)


def check_long_run(device: torch.device, num_steps: int, seconds: float, **settings: Any) -> Iterator[Result]:
    """Memory after steps of the last quarter against those of the second: the first holds what is made once. And the
    reward of the last quarter against that of the first: a policy that collapses loses it.

    Where the time is up before the steps are done nothing has passed, and what there is is told.
    """
    reset = settings | {"reset": {"every_steps": max(2, num_steps // 20)}}
    watched = Watching(device, seconds)
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(TimeIsUp):
        demo_run(Path(temporary) / "run", watched, num_steps, **reset)
    used, done = watched.bytes, len(watched.bytes)
    if (quarter := done // 4) == 0:
        raise RuntimeError(f"{done} steps in {seconds:g} s are too few")
    growth = max(used[-quarter:]) / max(max(used[quarter : 2 * quarter]), 1) - 1
    first, last = (statistics.fmean(part) for part in (watched.rewards[:quarter], watched.rewards[-quarter:]))
    steps = f"over {done:,} steps with resets" + (f" (of {num_steps:,}: the time was up)" if done < num_steps else "")
    flat, kept = (None, None) if done < num_steps else (growth < 0.02, last >= first)
    yield Result(f"memory {steps}", f"{growth:+.1%}", "< 2%", flat)
    yield Result(f"reward {steps}, first and last quarter", f"{first:.3f}, {last:.3f}", "no lower", kept)


def measure_mfu(
    ranks: Ranks, config: PretrainedConfig, lengths: Sequence[int], microbatches: int, compiled: bool = False
) -> Iterator[Result]:
    """Update (forward, backward, optimizer) and log-probability pass of packed microbatches, layers kept whole.

    Utilisation is the model's FLOPs over time and peak: the backward pass counts twice the forward pass, what
    activation checkpointing computes again counts nothing.
    """
    torch.manual_seed(0)
    policy = Policy(Qwen2ForCausalLM(config), 1.2)
    if compiled:
        compile_layers(policy)
    checkpoint_activations(policy.model)
    if ranks.device.type == "cuda":
        shard(policy, ranks, torch.bfloat16, keep_whole=True)
    prompt = min(PROMPT_TOKENS, min(lengths) // 2)
    samples = samples_of(lengths * microbatches, config.vocab_size, prompt)
    batch = build_batch(samples, sum(lengths))
    optimizer = make_optimizer(policy.parameters(), OptimizerConfig())
    forward = microbatches * forward_flops(config, lengths, sum(lengths) - prompt * len(lengths))

    def update() -> None:
        update_policy(policy, policy, optimizer, [batch], LossConfig(kl_coef=0), 1.0, ranks)

    @torch.no_grad()
    def logprobs() -> None:
        with kept_whole(policy):
            for microbatch in batch.microbatches:
                policy.logprobs(to_device(microbatch, ranks.device))

    name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    peak = next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
    how = ", compiled" if compiled else ""
    rows = ((f"update{how}", update, 3 * forward, 0.35), (f"log-probability pass{how}", logprobs, forward, 0.45))
    for what, act, flops, wanted in rows:
        yield mfu_result(what, flops, seconds(act, ranks.device), peak, wanted)


def mfu_result(what: str, flops: float, duration_s: float, peak: float | None, wanted: float) -> Result:
    rate = flops / duration_s
    if peak is None:
        return Result(f"{what}, MFU", f"{rate / 1e12:.3g} TFLOP/s; peak of this device not known", f"{wanted:.0%}")
    text = f"{rate / peak:.1%} ({rate / 1e12:.0f} of {peak / 1e12:.0f} TFLOP/s)"
    return Result(f"{what}, MFU", text, f">= {wanted:.0%}", rate / peak >= wanted)


def seconds(act: Callable[[], None], device: torch.device, rounds: int = 3) -> float:
    """The best of some rounds after a warm-up, the device's work waited for."""
    times = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def check_kernels() -> Iterator[Result]:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/trainer"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    yield Result("tests marked gpu", done.stdout.strip().splitlines()[-1], "all pass", done.returncode == 0)
