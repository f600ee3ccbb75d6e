"""Grading workers that ProRL's batch needs: `python benchmarks/sizing.py [COMPLETIONS.jsonl]`.

256 prompts of 16 completions in the paper's shares of kinds. What a completion of each kind costs is measured on a
group of 16 of every example (hostile ones included) or of every line of a file in the same form, through an embedded
service of two workers without a cache. CPU seconds decide, which other work on the machine hardly changes; how long
generation takes is yours to say, so a few durations are shown.
"""

import itertools
import json
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402

from tests.verifier_service.service_process import ServiceProcess, running_service  # noqa: E402

PROMPTS, GROUP_SIZE, GPUS = 256, 16, 32
SHARES = {"math": 40, "code": 24, "stem": 25, "logic": 37}
"""Thousands of prompts in ProRL's table 4; instruction following joins later and costs less than logic."""
GENERATION_S = (60, 300, 600)
GAUGE_S = 3.0
"""The service reads its workers' counters every second or two."""


def group(example: dict[str, Any]) -> dict[str, Any]:
    """16 completions: programs that all differ, other answers that differ as often as the example's do."""
    task = example["task"]
    comment = "#" if task.get("language", "python") in ("python", "bash") else "//"
    end = f"\n{comment} {{copy}}\n```" if task["kind"] == "code" else "\n```"
    copies = zip(range(GROUP_SIZE), itertools.cycle(example["completions"]), strict=False)
    completions = [end.format(copy=copy).join(text.rsplit("\n```", 1)) + f"\n# {copy}" for copy, text in copies]
    return {"task": task, "completions": completions}


def graded(service: ServiceProcess, items: list[dict[str, Any]]) -> tuple[float, float]:
    """CPU seconds of graders and programs, as the service counts them, and seconds until all is answered."""
    started = time.perf_counter()
    answer = httpx.post(f"{service.url}/v1/score", json={"items": items}, timeout=1800.0)
    assert answer.status_code == 200, answer.text
    took_s = time.perf_counter() - started
    time.sleep(GAUGE_S)
    counted = re.findall(
        r"^verifier_grading_cpu_seconds_total\S* (\S+)$", httpx.get(f"{service.url}/metrics").text, re.M
    )
    return sum(map(float, counted)), took_s


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "examples" / "completions.jsonl"
    examples = [json.loads(line) for line in path.read_text().splitlines()]
    total_s = before_s = 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), ROOT, workers=2, cache_size=0) as service,
    ):
        for kind, share in SHARES.items():
            items = [group(example) for example in examples if example["task"]["kind"] == kind]
            after_s, took_s = graded(service, items)
            each_s, before_s = (after_s - before_s) / len(items) / GROUP_SIZE, after_s
            wanted = PROMPTS * GROUP_SIZE * share / sum(SHARES.values())
            print(
                f"{kind}: {1000 * each_s:.1f} ms a completion ({took_s:.0f} s); {wanted:.0f} in the batch", flush=True
            )
            total_s += each_s * wanted
    print(f"the batch: {total_s:.0f} CPU s of workers")
    for generation_s in GENERATION_S:
        workers = math.ceil(total_s / generation_s)
        print(f"hidden behind {generation_s} s of generation: {workers} workers, {workers / GPUS:.2f} a GPU of {GPUS}")


if __name__ == "__main__":
    main()
