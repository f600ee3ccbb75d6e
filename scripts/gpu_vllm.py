"""What `make gpu-check` checks of vLLM where it is installed: what proofs of weight syncs stand on, and short runs."""

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.trainer import spell_items
from scripts.gpu_sections import Result, Watching, demo_run
from trainer.demo import make_demo_model
from trainer.engine.config import EngineConfig
from trainer.engine.flight import Reader
from trainer.engine.protocol import Engine
from trainer.engine.torch_engine import stop_token_ids
from trainer.policy import Policy, load_model, load_tokenizer
from trainer.prompts import encode_prompt
from trainer.run_config import DemoModelConfig
from trainer.types import Prompt
from trainer.weight_sync import Probe, Values, largest_difference

VLLM_ENGINE: dict[str, Any] = {"kv_cache_mb": 1024, "max_rows": 64}
NO_VLLM = "not run: vLLM is not installed (pip install '.[vllm]')"


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def check_vllm_pushes(device: torch.device) -> Iterator[Result]:
    """In process and in bfloat16: weights pushed twice, other weights, sleep. Proofs of pushes stand on these."""
    same = "vLLM's log-probabilities after the same weights again"
    if not has_vllm():
        yield Result(same, NO_VLLM, "the same to the last bit")
        return
    from trainer.engine.vllm_engine import VllmEngine  # it takes seconds, and is an extra

    torch.manual_seed(0)
    prompts = [
        Prompt(str(number), ({"role": "user", "content": item.prompt},), item.task, "words", ())
        for number, item in enumerate(spell_items()[:256])
    ]
    with tempfile.TemporaryDirectory() as folder:
        make_demo_model(prompts, DemoModelConfig(warm_up_steps=20), Path(folder))
        tokenizer, model = load_tokenizer(folder), load_model(folder, torch.bfloat16)
        torch.nn.Module.to(model, device)
        reader = Reader(tokenizer, stop_token_ids(model, tokenizer))
        engine = VllmEngine(folder, reader, EngineConfig(kind="vllm", **VLLM_ENGINE), 512, torch.bfloat16)
    policy = Policy(model, 1.0)
    probe = Probe.of([encode_prompt(tokenizer, prompt) for prompt in prompts[:8]], len(tokenizer))
    told = []
    for version in range(2):
        engine.push(policy.weights(), version)
        told.append(probe.by_engine(engine))
    yield compared(same, told[0], told[1], equal=True)
    difference = largest_difference(probe.by_policy(policy), told[0])
    yield Result("vLLM's log-probabilities against the trainer's", f"{difference:.2g}", "< 0.5", difference < 0.5)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.01 * torch.randn_like(weight)
    engine.push(policy.weights(), 2)
    told.append(probe.by_engine(engine))
    yield compared("vLLM's log-probabilities after other weights", told[0], told[2], equal=False)
    yield from check_sleep(engine, probe, told[2], device)
    engine.close()


def check_sleep(engine: Engine, probe: Probe, before: Values, device: torch.device) -> Iterator[Result]:
    name = "memory that vLLM gives back while it sleeps"
    if device.type != "cuda":
        yield Result(name, "not run: on a CPU nothing sleeps")
        return
    awake, _ = torch.cuda.mem_get_info(device)
    engine.sleep()
    given_back = (torch.cuda.mem_get_info(device)[0] - awake) / 2**20
    wanted = 0.9 * VLLM_ENGINE["kv_cache_mb"]
    yield Result(name, f"{given_back:,.0f} MiB", f"> {wanted:,.0f} MiB, the cache", given_back > wanted)
    engine.wake()
    yield compared("vLLM's log-probabilities after it slept", before, probe.by_engine(engine), equal=True)


def compared(name: str, first: Values, second: Values, *, equal: bool) -> Result:
    found = "the same" if first == second else f"another by up to {largest_difference(first, second):.2g}"
    return Result(name, found, "the same to the last bit" if equal else "others", (first == second) is equal)


def check_vllm_run(device: torch.device, own_servers: Sequence[str] = ()) -> Iterator[Result]:
    """A few steps with vLLM in this process, asleep while the policy trains, or with servers on other GPUs."""
    name = "vLLM server, weights over NCCL" if own_servers else "vLLM in process"
    name += ", 3 steps, syncs proven"
    if not has_vllm():
        yield Result(name, NO_VLLM, "3 steps")
        return
    if own_servers and torch.cuda.device_count() < 2:
        yield Result(name, f"not run: needs a second GPU, found {torch.cuda.device_count()}", "3 steps")
        return
    kind = {"kind": "vllm_http", "own_servers": list(own_servers)} if own_servers else {"kind": "vllm"}
    watching = Watching(device)
    with tempfile.TemporaryDirectory() as temporary:
        demo_run(Path(temporary) / "run", watching, 3, engine=VLLM_ENGINE | kind)
    steps = len(watching.bytes)
    yield Result(name, f"{steps} steps", "3 steps", steps == 3)
