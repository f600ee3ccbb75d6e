"""`make demo`: the whole loop on one machine, in minutes, without a GPU.

1. `verifier serve` brings up its own Redis and workers.
2. A batch of completions of every task kind (`completions.jsonl`) is scored over REST and shown as a table.
3. `trainer run configs/demo.toml` trains a tiny model on rewards from that same service.
4. The report is written, and the reward on held-out prompts before and after is compared.
"""

import json
import math
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from verifier_service.client import Client
from verifier_service.schemas import Item, Outcome, ScoredItem

ROOT = Path(__file__).parent.parent
RUN_DIR = ROOT / "runs" / "demo"
READY_TIMEOUT_S = 60.0
MIN_GAIN = 0.15
MIN_GAIN_IN_STANDARD_ERRORS = 3.0
COLORS = {Outcome.CORRECT: "green", Outcome.PARTIAL: "yellow", Outcome.INCORRECT: "red", Outcome.ERROR: "magenta"}

console = Console(width=None if sys.stdout.isatty() else 140)


def main() -> int:
    with service() as url:
        score_examples(url)
        train(url)
    print_where_to_look()
    return conclude()


@contextmanager
def service() -> Iterator[str]:
    """A running service on a free port; gone afterwards, with everything it started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "verifier_service", "serve", "--port", str(port), "--log-level", "warning"]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process)
        console.rule(f"[bold]verifier serve[/] is ready at {url} after {time.monotonic() - started:.1f} s")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            sys.exit(f"demo: the service ended with {process.returncode}; `verifier doctor` says what is missing")
        try:
            if httpx.get(f"{url}/readyz", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"demo: the service was not ready within {READY_TIMEOUT_S:.0f} s")


def score_examples(url: str) -> None:
    lines = (ROOT / "examples" / "completions.jsonl").read_text(encoding="utf-8").splitlines()
    items = [Item.model_validate_json(line) for line in lines]
    started = time.monotonic()
    with Client(url) as client:
        scored = client.score(items).items
    elapsed_s = time.monotonic() - started
    console.print(verdict_table(items, scored))
    num_completions = sum(len(item.completions) for item in items)
    console.print(f"{num_completions} completions, hostile ones among them, judged in {elapsed_s:.1f} s\n")


def verdict_table(items: list[Item], scored: list[ScoredItem]) -> Table:
    table = Table("kind", "completion", "outcome", "reward", "reason", "ms", title="POST /v1/score")
    for item, result in zip(items, scored, strict=True):
        for completion, verdict in zip(item.completions, result.verdicts, strict=True):
            reward = "null" if verdict.reward is None else f"{verdict.reward:.2f}"
            outcome = f"[{COLORS[verdict.outcome]}]{verdict.outcome}[/]"
            shown = repr(in_short(completion))[1:-1].replace("[", r"\[")
            table.add_row(verdict.verifier, shown, outcome, reward, verdict.reason, f"{verdict.elapsed_s * 1000:.1f}")
        table.add_section()
    return table


def in_short(completion: str, width: int = 60) -> str:
    """Its end, where the answer is."""
    visible = completion.rpartition("</think>")[2].strip()
    return visible if len(visible) <= width else "…" + visible[-width + 1 :]


def train(url: str) -> None:
    shutil.rmtree(RUN_DIR, ignore_errors=True)
    console.rule("[bold]trainer run configs/demo.toml[/]")
    command = [sys.executable, "-m", "trainer", "run", "configs/demo.toml"]
    settings = ["--set", f'reward.url="{url}"', "--set", f'run_dir="{RUN_DIR}"']
    subprocess.run([*command, *settings], cwd=ROOT, check=True)


def print_where_to_look() -> None:
    subprocess.run([sys.executable, "-m", "trainer", "report", str(RUN_DIR)], cwd=ROOT, check=True, stdout=sys.stderr)
    console.rule("[bold]where to look[/]")
    for path in sorted(RUN_DIR.glob("**/*.png")) + sorted(RUN_DIR.glob("report.html")):
        console.print(str(path), soft_wrap=True)


def conclude() -> int:
    """Say what was seen; exit code 1 where the reward has not clearly risen."""
    ledger = [json.loads(line) for line in (RUN_DIR / "ledger.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (RUN_DIR / "metrics.jsonl").read_text().splitlines()]
    before = next(event["validation"]["blend"] for event in ledger if event["event"] == "start")
    last = next(line["validation"] for line in reversed(metrics) if line.get("validation"))
    after = last["score"]
    error = next(iter(last["sets"].values()))["standard_error"]  # over prompts, so it speaks of other prompts too
    # That of the first score is not kept; it follows from the ratio of the two spreads.
    spread = math.sqrt(before * (1 - before) / max(after * (1 - after), 1e-9))
    standard_error = math.hypot(error, error * max(1.0, spread))
    num_resets = sum(event["event"] == "reset" for event in ledger)
    console.print(
        f"\nreward of training, step 1 to {metrics[-1]['step']}: {sparkline([line['reward_mean'] for line in metrics])}"
    )
    gain = after - before
    risen = gain >= MIN_GAIN and gain > MIN_GAIN_IN_STANDARD_ERRORS * standard_error
    console.print(
        f"\nMean reward on prompts held out from training: {before:.3f} before, {after:.3f} after "
        f"{metrics[-1]['step']} steps and {num_resets} hard reset(s): a gain of {gain:+.3f}, "
        f"{gain / standard_error:.1f} standard errors. "
        + ("" if risen else "That is NOT a clear rise. ")
        + "The model had seen the task in a supervised warm-up; much of the gain is that it now says with certainty "
        "what it could already do sometimes.",
        soft_wrap=True,
    )
    return 0 if risen else 1


def sparkline(values: list[float]) -> str:
    """The curve in one line of text, from its lowest to its highest value."""
    low, high = min(values), max(values)
    return "".join(" ▁▂▃▄▅▆▇█"[1 + round(7 * (value - low) / ((high - low) or 1.0))] for value in values)


if __name__ == "__main__":
    sys.exit(main())
