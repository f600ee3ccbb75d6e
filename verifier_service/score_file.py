"""`verifier score`: a file of items through a service, with a progress bar and a summary."""

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from verifier_service.client import AsyncClient, split_batches
from verifier_service.errors import BadInput, first_error
from verifier_service.schemas import Item, Outcome, ScoredItem, Verdict
from verifier_service.surrogates import mend

BATCH_COMPLETIONS = 256
CONCURRENCY = 8


def read_items(path: Path) -> list[Item]:
    """Raises `BadInput`, which names the line."""
    items = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            items.append(Item.model_validate_json(mend(line)))
        except ValidationError as error:
            raise BadInput(f"{path}, line {number}: {first_error(error)}") from error
    if not items:
        raise BadInput(f"{path} holds no items")
    return items


def score_file(items: Sequence[Item], url: str, api_key: str | None, out: Path | None) -> None:
    """Score, write one line an item to `out`, print the summary. Raises `client.ServiceError`."""
    with _progress(sum(len(item.completions) for item in items)) as advance:
        scored = asyncio.run(_score(items, url, api_key, advance))
    if out is not None:
        with out.open("w") as target:
            target.writelines(item.model_dump_json() + "\n" for item in scored)
    Console().print(summary(items, scored))


async def _score(
    items: Sequence[Item], url: str, api_key: str | None, advance: Callable[[int], None]
) -> list[ScoredItem]:
    async with AsyncClient(url, api_key=api_key, concurrency=CONCURRENCY) as client:

        async def score_batch(batch: list[Item]) -> list[ScoredItem]:
            response = await client.score(batch, deadline_s=3600)
            advance(sum(len(item.completions) for item in batch))
            return response.items

        batches = split_batches(items, BATCH_COMPLETIONS)
        return [item for scored in await asyncio.gather(*map(score_batch, batches)) for item in scored]


def summary(items: Sequence[Item], scored: Sequence[ScoredItem]) -> Table:
    by_kind: dict[str, list[Verdict]] = {}
    for item, judged in zip(items, scored, strict=True):
        by_kind.setdefault(str(item.task["kind"]), []).extend(judged.verdicts)
    # Narrow, so that eighty columns show every heading.
    table = Table(collapse_padding=True, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    for name in ("scored", *Outcome, "reward", "ms"):
        table.add_column(name, justify="right")
    for kind, verdicts in sorted(by_kind.items()):
        counts = Counter(verdict.outcome for verdict in verdicts)
        rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
        reward = f"{fmean(rewards):.3f}" if rewards else "-"
        elapsed_ms = 1000 * fmean(verdict.elapsed_s for verdict in verdicts)
        shown = [str(counts[outcome]) for outcome in Outcome]
        table.add_row(kind, str(len(verdicts)), *shown, reward, f"{elapsed_ms:.1f}")
    return table


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("scoring", total=total)
        yield lambda count: progress.advance(task, count)
