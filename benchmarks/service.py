"""What the service costs and holds: `python benchmarks/service.py [PART ...]`.

Every number is from one run on one machine, with an embedded Redis; the load comes from a process of its own. Compare
ratios, not seconds. Parts: startup, kinds, overhead, latency, capacity, memory, scale, lanes.
"""

import asyncio
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402
import psutil  # noqa: E402

from tests.verifier_service.service_process import (  # noqa: E402
    ServiceProcess,
    echo_item,
    install_plugin,
    running_service,
)
from verifier_service.process import tree_cpu_s  # noqa: E402
from verifier_service.registry import parse_task  # noqa: E402
from verifier_service.supervisor import NICENESS  # noqa: E402
from verifier_service.tools import WorkerTools  # noqa: E402
from verifier_service.verify import verify  # noqa: E402

Items = list[dict[str, Any]]
WORKERS, ROUNDS, ROUND_S = 2, 3, 6.0
KINDS = os.environ.get("KINDS", "")


def group(index: int, group_size: int, size_bytes: int, text: str = "", kind: str = "noop") -> dict[str, Any]:
    """One prompt's completions, all different."""
    completions = [f"{text} {index} {number} ".ljust(size_bytes, "x") for number in range(group_size)]
    return echo_item(*completions, want=str(index), kind=kind)


def family_cpu_s(service: ServiceProcess) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in service.family())


def resident_mb(service: ServiceProcess) -> dict[str, float]:
    (redis,) = service.named("redis.sock")
    api = psutil.Process(service.process.pid)
    return {"API": api.memory_info().rss / 2**20, "Redis": redis.memory_info().rss / 2**20}


def load(
    service: ServiceProcess, bodies: list[bytes], seconds: float, connections: int
) -> tuple[int, float, list[float]]:
    """Requests answered, seconds, and their latencies, from a load generator in its own process."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"\n".join(bodies))
        file.flush()
        command = [sys.executable, __file__, "--generate", service.url, file.name, str(seconds), str(connections)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    latencies, elapsed_s = json.loads(done.stdout)
    return len(latencies), elapsed_s, latencies


async def generate(url: str, bodies: list[bytes], seconds: float, connections: int) -> None:
    latencies: list[float] = []
    started = time.perf_counter()
    served = iter(range(10**9))

    async def send(client: httpx.AsyncClient) -> None:
        while (now := time.perf_counter()) < started + seconds:
            body = bodies[next(served) % len(bodies)]
            response = await client.post("/v1/score", content=body, headers={"Content-Type": "application/json"})
            assert response.status_code == 200, response.text
            latencies.append(time.perf_counter() - now)

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(send(client) for _ in range(connections)))
    print(json.dumps([latencies, time.perf_counter() - started]))


def body(items: Items) -> bytes:
    return json.dumps({"items": items}).encode()


def quantiles_ms(latencies: list[float]) -> str:
    ordered = sorted(latencies)
    return f"p50 {1000 * statistics.median(ordered):.1f} ms, p99 {1000 * ordered[int(0.99 * len(ordered))]:.1f} ms"


def startup(folder: Path, plugin: Path) -> Iterator[str]:
    for attempt in range(3):
        started = time.perf_counter()
        with running_service(folder / str(attempt), plugin, workers=WORKERS):
            yield f"ready to grade after {time.perf_counter() - started:.1f} s"


def kinds(folder: Path, plugin: Path) -> Iterator[str]:
    """The example completions of each kind, each time a little different, no cache: 2 workers of the service against 2
    processes that call the same verifiers directly, in turns. One request holds 16 variations of each example."""
    lines = map(json.loads, (ROOT / "examples" / "completions.jsonl").read_text().splitlines())
    by_kind: dict[str, Items] = {}
    for line in lines:
        item = {"task": line["task"], "completions": [text for text in line["completions"] if not _is_slow(text)]}
        by_kind.setdefault(line["task"]["kind"], []).append(item)
    with running_service(folder, plugin, workers=WORKERS, cache_size=0) as service:
        for kind, items in by_kind.items():
            if KINDS and kind not in KINDS:
                continue
            batches = [[_varied(item, n, copy) for copy in range(16) for item in items] for n in range(40)]
            bodies = [body(batch) for batch in batches]
            load(service, bodies[20:], 2.0, 4)
            per_body = 16 * sum(len(item["completions"]) for item in items)
            rounds = [(_through(service, bodies, per_body), _directly(batches)) for _ in range(ROUNDS)]
            rates = [statistics.median(side[0] for side in sides) for sides in zip(*rounds, strict=True)]
            ratio = statistics.median(here[0] / there[0] for here, there in rounds)
            cpu_ratio = statistics.median(there[1] / here[1] for here, there in rounds)
            yield (
                f"{kind}: {rates[0]:.0f}/s through the service, {rates[1]:.0f}/s directly, {ratio:.2f} of it; "
                f"by CPU time, which other load does not change, {cpu_ratio:.2f}"
            )


def _through(service: ServiceProcess, bodies: list[bytes], per_body: int) -> tuple[float, float]:
    """Completions a second, and CPU seconds of all processes of the service a completion."""
    before_s = tree_cpu_s(service.process.pid)
    answered, elapsed_s, _latencies = load(service, bodies, ROUND_S, 4)
    graded = answered * per_body
    return graded / elapsed_s, (tree_cpu_s(service.process.pid) - before_s) / graded


def _varied(item: dict[str, Any], number: int, copy: int) -> dict[str, Any]:
    """The same item, but neither its task nor its completions equal any other's, or they would be judged once."""
    task = {**item["task"]}
    if isinstance(task.get("ground_truth"), str):
        task["ground_truth"] += " " * copy
    elif task["kind"] == "code":
        task["time_limit_s"] = task.get("time_limit_s", 5.0) + copy / 1e6
    elif "entry" in task:
        task["entry"] = {**task["entry"], "metadata": {**task["entry"]["metadata"], "copy": copy}}
    return {"task": task, "completions": [f"{text}\n# {number} {copy}" for text in item["completions"]]}


def _is_slow(completion: str) -> bool:
    """Completions that run into a limit measure the limit."""
    return any(word in completion for word in ("while True", "9**9"))


def _directly(batches: list[Items]) -> tuple[float, float]:
    """The same of `WORKERS` processes that call the verifiers, each warm before the clock starts."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(WORKERS)
    with concurrent.futures.ProcessPoolExecutor(WORKERS, context, _grade_alone_start, (barrier,)) as pool:
        done = list(pool.map(_grade_alone, [batches[number::WORKERS] for number in range(WORKERS)]))
    return sum(rate for rate, _cpu_s in done), statistics.mean(cpu_s for _rate, cpu_s in done)


def _grade_alone_start(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _grade_alone(batches: list[Items]) -> tuple[float, float]:
    os.nice(NICENESS["code"])  # as the workers of that lane
    tools = WorkerTools()

    def grade(item: dict[str, Any]) -> int:
        verifier, task = parse_task(item["task"])
        return len([verify(verifier, task, text, tools) for text in item["completions"]])

    for item in batches[0]:
        grade(item)
    _barrier.wait()
    started, cpu_before_s, graded = time.perf_counter(), tree_cpu_s(os.getpid()), 0
    for item in itertools.cycle(item for batch in batches for item in batch):
        graded += grade(item)
        if (elapsed_s := time.perf_counter() - started) > ROUND_S:
            break
    cpu_s = tree_cpu_s(os.getpid()) - cpu_before_s
    tools.close()
    return graded / elapsed_s, cpu_s / graded


def overhead(folder: Path, plugin: Path) -> Iterator[str]:
    """CPU of API, Redis and workers for completions of 8 KB in groups of 16 that cost nothing to judge."""
    bodies = [body([group(index, 16, 8192)]) for index in range(64)]
    with running_service(folder, plugin, workers=WORKERS) as service:
        load(service, bodies, 3.0, 4)
        before = family_cpu_s(service)
        answered, _elapsed_s, _latencies = load(service, bodies, 8.0, 4)
        cpu_s = family_cpu_s(service) - before
        yield f"{1000 * cpu_s / (16 * answered):.3f} ms CPU a completion of 8 KB in groups of 16"


def latency(folder: Path, plugin: Path) -> Iterator[str]:
    bodies = [body([group(index, 1, 200)]) for index in range(64)]
    with running_service(folder, plugin, workers=WORKERS) as service:
        load(service, bodies, 2.0, 1)
        _answered, _elapsed_s, latencies = load(service, bodies, 6.0, 1)
        yield f"one small item on an idle service: {quantiles_ms(latencies)}"


def capacity(folder: Path, plugin: Path) -> Iterator[str]:
    with running_service(folder, plugin, workers=WORKERS) as service:
        bodies = _noop_bodies()
        load(service, bodies, 3.0, 8)
        for _ in range(ROUNDS):
            answered, elapsed_s, _latencies = load(service, bodies, 10.0, 8)
            yield f"{256 * answered / elapsed_s:.0f} completions of 1 KB a second"


def memory(folder: Path, plugin: Path) -> Iterator[str]:
    """Resident memory under the load of `capacity`, for as long as `SECONDS` of the environment says (60)."""
    seconds = float(os.environ.get("SECONDS", "60"))
    with running_service(folder, plugin, workers=WORKERS) as service:
        samples: dict[str, list[tuple[float, float]]] = {"API": [], "Redis": []}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            started = time.perf_counter()
            loading = pool.submit(load, service, _noop_bodies(), seconds, 8)
            while not loading.done():
                for name, mb in resident_mb(service).items():
                    samples[name].append(((time.perf_counter() - started) / 60, mb))
                time.sleep(1.0)
            answered, elapsed_s, _latencies = loading.result()
        yield f"{256 * answered / elapsed_s:.0f} completions of 1 KB a second for {elapsed_s:.0f} s"
        for name, series in samples.items():
            settled = series[len(series) // 4 :]  # the first quarter is growing to working size
            slope = statistics.linear_regression(*zip(*settled, strict=True)).slope
            start, end = settled[0][1], settled[-1][1]
            yield f"{name} {series[0][1]:.0f} MB at first, then {start:.1f} -> {end:.1f} MB, {slope:+.2f} MB a minute"


def _noop_bodies() -> list[bytes]:
    return [body([group(16 * index + number, 16, 1024) for number in range(16)]) for index in range(16)]


def scale(folder: Path, plugin: Path) -> Iterator[str]:
    """Graders that sleep 250 ms a chunk, one completion a chunk."""
    rates = {}
    for workers in (1, 4, 16, 64):
        bodies = [body([group(index, 4 * workers, 1, "sleep 0.25", "echo")]) for index in range(4)]
        settings = {"workers": workers, "chunk_target_s": 0.001, "cache_size": 0}
        with running_service(folder / str(workers), plugin, **settings) as service:
            load(service, bodies, 2.0, 2)
            answered, elapsed_s, _latencies = load(service, bodies, 8.0, 2)
            rates[workers] = 4 * workers * answered / elapsed_s
            efficiency = rates[workers] / workers / rates[1]
            yield f"{workers} workers: {rates[workers]:.1f} chunks/s, efficiency {efficiency:.2f}"


def lanes(folder: Path, plugin: Path) -> Iterator[str]:
    program = "```python\nwhile True: pass # {}\n```"
    task = {"kind": "code", "tests": [{"stdin": "", "stdout": "1"}], "time_limit_s": 5}
    math = [
        body([{"task": {"kind": "math", "ground_truth": str(n)}, "completions": [f"\\boxed{{{n}.0}}"]}])
        for n in range(200)
    ]
    with running_service(folder, plugin, workers=WORKERS, cache_size=0) as service:
        load(service, math, 3.0, 1)
        _answered, _elapsed_s, quiet = load(service, math, 8.0, 1)
        bombs: Items = [{"task": task, "completions": [program.format(number) for number in range(16)]}]
        job = httpx.post(service.url + "/v1/jobs", json={"items": bombs}).json()["job_id"]
        time.sleep(1.0)
        _answered, _elapsed_s, busy = load(service, math, 8.0, 1)
        httpx.delete(f"{service.url}/v1/jobs/{job}")
        yield f"math alone {quantiles_ms(quiet)}; beside programs that loop {quantiles_ms(busy)}"


PARTS: dict[str, Callable[[Path, Path], Iterator[str]]] = {
    "startup": startup,
    "kinds": kinds,
    "overhead": overhead,
    "latency": latency,
    "capacity": capacity,
    "memory": memory,
    "scale": scale,
    "lanes": lanes,
}


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        url, path, seconds, connections = sys.argv[2:]
        bodies = Path(path).read_bytes().split(b"\n")
        asyncio.run(generate(url, bodies, float(seconds), int(connections)))
        return
    if unknown := set(sys.argv[1:]) - PARTS.keys():
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin = install_plugin(folder)
        sys.path.append(str(plugin))
        for part in sys.argv[1:] or PARTS:
            for line in PARTS[part](folder / part, plugin):
                print(f"{part}: {line}", flush=True)


if __name__ == "__main__":
    main()
