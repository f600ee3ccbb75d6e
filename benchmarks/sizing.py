"""Grading workers that ProRL's batch needs: `python benchmarks/sizing.py [COMPLETIONS.jsonl]`.

256 prompts of 16 completions in the paper's shares of kinds. What a completion of each kind costs is measured on a
group of 16 of every example (hostile ones included) or of every line of a file in the same form, through an embedded
service of two workers without a cache. CPU seconds decide, which other work on the machine hardly changes; how long
generation takes is yours to say, so a few durations are shown.
"""

import itertools
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import psutil  # noqa: E402

from tests.verifier_service.service_process import ServiceProcess, running_service  # noqa: E402

PROMPTS, GROUP_SIZE, GPUS = 256, 16, 32
SHARES = {"math": 40, "code": 24, "stem": 25, "logic": 37}
"""Thousands of prompts in ProRL's table 4; instruction following joins later and costs less than logic."""
GENERATION_S = (60, 300, 600)


def group(example: dict[str, Any]) -> dict[str, Any]:
    """16 completions, different in text, and in their answers as often as the example's."""
    copies = zip(range(GROUP_SIZE), itertools.cycle(example["completions"]), strict=False)
    return {"task": example["task"], "completions": [f"{text}\n# {copy}" for copy, text in copies]}


def cpu_s(processes: list[psutil.Process]) -> float:
    """Of these and of all their children that have ended."""
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def graded(service: ServiceProcess, items: list[dict[str, Any]]) -> tuple[float, float, float]:
    """CPU seconds of workers, of API and Redis, and seconds until all is answered."""
    front = [psutil.Process(service.process.pid), *service.named("redis.sock")]
    behind = [process for process in service.family() if process not in front]
    before, before_front, started = cpu_s(behind), cpu_s(front), time.perf_counter()
    answer = httpx.post(f"{service.url}/v1/score", json={"items": items}, timeout=1800.0)
    assert answer.status_code == 200, answer.text
    return cpu_s(behind) - before, cpu_s(front) - before_front, time.perf_counter() - started


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples" / "completions.jsonl"
    examples = [json.loads(line) for line in path.read_text().splitlines()]
    total_s = front_total_s = 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), ROOT, workers=2, cache_size=0) as service,
    ):
        for kind, share in SHARES.items():
            items = [group(example) for example in examples if example["task"]["kind"] == kind]
            worker_s, front_s, took_s = graded(service, items)
            each, front_each = worker_s / len(items) / GROUP_SIZE, front_s / len(items) / GROUP_SIZE
            wanted = PROMPTS * GROUP_SIZE * share / sum(SHARES.values())
            costs = f"{1000 * each:.1f} ms of a worker, {1000 * front_each:.1f} ms of API and Redis"
            print(f"{kind}: {costs} a completion ({took_s:.0f} s); {wanted:.0f} in the batch", flush=True)
            total_s += each * wanted
            front_total_s += front_each * wanted
    print(f"the batch: {total_s:.0f} CPU s of workers, {front_total_s:.0f} of API and Redis")
    for generation_s in GENERATION_S:
        workers = math.ceil(total_s / generation_s)
        print(f"hidden behind {generation_s} s of generation: {workers} workers, {workers / GPUS:.2f} a GPU of {GPUS}")


if __name__ == "__main__":
    main()
