"""What the trainer promises of a CUDA device, checked and measured: `make gpu-check` (`python -m scripts.gpu_check`).

Each section is a process of its own with a time limit, so that none that crashes or hangs takes the others along; the
important and quick ones come first. gpu-check.md and gpu-check.json are written after each, gpu-check.log holds what
sections said. docs/trainer.md says what they do. Exit code 1 where something failed or there is no CUDA device.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from scripts import gpu_sections, gpu_vllm
from scripts.gpu_sections import ROOT, Result
from trainer.parallel import join_ranks

CUDA = torch.device("cuda", 0)
GRACE_S = 30.0
"""Beyond its limit, for a section that ends by itself."""


@dataclass(frozen=True)
class Section:
    check: Callable[[float], Iterable[Result]]
    """Given the seconds it has."""
    limit_s: float
    """Several times what it takes."""


def utilisation(compiled: bool) -> Iterable[Result]:
    with join_ranks() as ranks:
        yield from gpu_sections.measure_mfu(ranks, gpu_sections.QWEN2_1_5B, gpu_sections.LENGTHS, 8, compiled)


def sections(num_steps: int) -> dict[str, Section]:
    """By name, in the order in which they run."""
    return {
        "numbers against the CPU": Section(lambda _: gpu_sections.check_numbers(CUDA), 120),
        "MFU of a 1.5B Qwen2": Section(lambda _: utilisation(compiled=False), 300),
        "vLLM: pushes and sleep": Section(lambda _: gpu_vllm.check_vllm_pushes(CUDA), 300),
        "MFU of a 1.5B Qwen2, compiled": Section(lambda _: utilisation(compiled=True), 300),
        "tests marked gpu": Section(lambda _: gpu_sections.check_kernels(), 300),
        "a run with reset and resume": Section(lambda _: gpu_sections.check_run(CUDA), 300),
        "a run with vLLM in process": Section(lambda _: gpu_vllm.check_vllm_run(CUDA), 300),
        "a run with a vLLM server": Section(lambda _: gpu_vllm.check_vllm_run(CUDA, ["1"]), 600),
        "a long run": Section(partial(gpu_sections.check_long_run, CUDA, num_steps), 4 * 3600),
    }


def run_section(command: Sequence[str], limit_s: float, log: Path) -> tuple[list[Result], str]:
    """A process's results, as far as it came, and what went wrong with it; empty: nothing."""
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as said:
        told, begun = Path(folder) / "results", said.tell()
        process = subprocess.Popen(
            [*command, "--tell", str(told)], stdout=said, stderr=said, cwd=ROOT, start_new_session=True
        )
        fault = f"not done in {limit_s:.0f} s"
        with contextlib.suppress(subprocess.TimeoutExpired):
            try:
                status = process.wait(limit_s)
                lines = log.read_bytes()[begun:].decode(errors="replace").strip().splitlines() or ["no output"]
                fault = f"ended with {status}: {lines[-1][:200]}" if status else ""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with what it left behind on the device
                process.wait()
        lines = told.read_text().splitlines() if told.exists() else []
    return [Result(**json.loads(line)) for line in lines], fault


def tell(results: Iterable[Result], path: Path) -> None:
    """One line each, as soon as it is known."""
    with path.open("w") as file:
        for result in results:
            print(json.dumps(asdict(result)), file=file, flush=True)


def table(results: Sequence[Result], title: str) -> str:
    """Markdown."""
    marks = {True: "ok", False: "FAILED", None: "-"}
    lines = [f"# {title}", "", "| check | found | wanted | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r.name} | {r.value} | {r.wanted} | {marks[r.passed]} |" for r in results), ""])


def check_all(
    limits: dict[str, float], command: Callable[[str, float], Sequence[str]], out: Path, title: str, minutes: float
) -> bool:
    """Whether nothing failed. `limits`: seconds by section; `command`: of a section that has so many seconds left."""
    until = time.monotonic() + 60 * minutes
    results: list[Result] = []
    for number, (name, limit_s) in enumerate(limits.items()):
        write(results, list(limits)[number:], out, title)
        left = min(limit_s, until - time.monotonic())
        if left < 1:
            results.append(Result(name, f"not run: {minutes:g} minutes were up"))
            continue
        print(f"gpu-check: {name} ...", file=sys.stderr, flush=True)
        measured, fault = run_section(command(name, left), left + GRACE_S, out.with_suffix(".log"))
        results += measured
        if fault:
            results.append(Result(name, fault, "", False))
    print(write(results, [], out, title))
    return all(result.passed is not False for result in results)


def write(results: Sequence[Result], missing: Sequence[str], out: Path, title: str) -> str:
    """The files, as they are to be found where nothing comes after."""
    rows = [*results, *(Result(name, "not run: interrupted") for name in missing)]
    out.with_suffix(".json").write_text(json.dumps([asdict(result) for result in rows], indent=1))
    text = table(rows, title)
    out.with_suffix(".md").write_text(text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 steps instead of 2,000 in the long run")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="for all; the long run ends where they are up")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="without its endings")
    parser.add_argument("--section", choices=list(sections(0)), help="only this one")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--tell", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device", file=sys.stderr)
        return 1
    every = sections(200 if arguments.quick else 2000)
    if arguments.tell:
        tell(every[arguments.section].check(arguments.seconds), arguments.tell)
        return 0

    def command(name: str, seconds: float) -> list[str]:
        quick = ["--quick"] if arguments.quick else []
        return [sys.executable, "-m", "scripts.gpu_check", "--section", name, "--seconds", f"{seconds:.0f}", *quick]

    limits = {name: every[name].limit_s for name in ([arguments.section] if arguments.section else every)}
    title = f"gpu-check: {torch.cuda.get_device_name(CUDA)}, torch {torch.__version__}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: sections end with it
    try:
        return int(not check_all(limits, command, arguments.out, title, arguments.minutes))
    except KeyboardInterrupt:
        print(f"gpu-check: interrupted, see {arguments.out.with_suffix('.md')}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
