"""`report.html`, alone in one file, and the same curves as PNGs: read from a run directory, needs no torch."""

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

from trainer.curves import CHARTS, Chart, History, Record, render
from trainer.errors import ConfigError
from trainer.jsonl import read_jsonl, write_atomically
from trainer.ledger import LedgerEvent, read_ledger
from trainer.lineage import Era, lineage

TEMPLATE = Path(__file__).with_name("report.html")
REPORT_FILE = "report.html"
CURVES_FOLDER = "curves"
SAMPLED_STEPS = 12
GROUPS_A_STEP = 6
ROLLOUTS_A_GROUP = 8
MAX_TEXT = 6000
"""Characters of a completion or message that the report shows."""


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` and `curves/*.png`; gives its path. Raises ConfigError for a run without steps."""
    records = read_jsonl(run_dir / "metrics.jsonl")
    if not records:
        raise ConfigError(f"{run_dir} has no metrics.jsonl with at least one step")
    events = read_ledger(run_dir)
    root = lineage(events)
    history = history_of(records, events, root)
    pictures = [(chart, png) for chart in CHARTS if (png := render(chart, history)) is not None]
    folder = run_dir / CURVES_FOLDER
    folder.mkdir(exist_ok=True)
    for chart, png in pictures:
        (folder / f"{chart.name}.png").write_bytes(png)
    rollouts, note = sample_rollouts(run_dir)
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(run_dir.resolve().name),
        subtitle=escape(subtitle(records, events)),
        cards="".join(f"<div class=card><span>{escape(k)}</span><b>{escape(v)}</b></div>" for k, v in cards(history)),
        charts="".join(figure(chart, png) for chart, png in pictures),
        eras="".join(era_row(era) for era in all_eras(root)),
        sample_note=escape(note),
        rollouts=as_script_data(rollouts),
    )
    write_atomically(run_dir / REPORT_FILE, page)
    return run_dir / REPORT_FILE


def all_eras(root: Era | None) -> Iterator[Era]:
    """Depth first, abandoned ones too."""
    if root is not None:
        yield root
        for child in root.children:
            yield from all_eras(child)


def history_of(records: Sequence[Record], events: Sequence[LedgerEvent], root: Era | None) -> History:
    """Metrics, the eras they show, and all validations, that before the first step included."""
    causes = {era.number: era.cause for era in all_eras(root) if era.abandoned is None}
    starts = [
        (after["step"], after["era"], causes.get(after["era"], "reset"))
        for before, after in pairwise(records)
        if after["era"] > before["era"]
    ]
    validations = [
        (record["step"], found["score"], found["error"]) for record in records if (found := record.get("validation"))
    ]
    first = next((event for event in events if event.event == "start" and event.validation), None)
    if first is not None and first.validation is not None and "blend" in first.validation:
        validations.insert(0, (first.step, first.validation["blend"], first.validation.get("blend_error")))
    return History(records, starts, validations)


def subtitle(records: Sequence[Record], events: Sequence[LedgerEvent]) -> str:
    parts = [f"steps {records[0]['step']} to {records[-1]['step']}"]
    if events:
        parts.append(f"started {events[0].time}, last event {events[-1].event} {events[-1].time}")
        versions = {kind: v for event in events for kind, v in event.verifier_versions.items()}
        if versions:
            parts.append("verifiers " + ", ".join(f"{kind} {version}" for kind, version in sorted(versions.items())))
    return " · ".join(parts)


def with_error(validation: tuple[int, float, float | None]) -> str:
    _, score, error = validation
    return f"{score:.3f}" if error is None else f"{score:.3f} ± {error:.3f}"


def cards(history: History) -> Iterator[tuple[str, str]]:
    """Label and value of the figures on top."""
    last = history.records[-1]
    yield "step", str(last["step"])
    yield "era", str(last["era"])
    if history.validations:
        yield "validation, first", with_error(history.validations[0])
        yield "validation, last", with_error(history.validations[-1])
    rewards = [value for value in history.series("reward_mean") if value == value]
    if rewards:
        tenth = max(1, len(rewards) // 10)
        yield "reward, first tenth", f"{sum(rewards[:tenth]) / tenth:.3f}"
        yield "reward, last tenth", f"{sum(rewards[-tenth:]) / tenth:.3f}"
    errors = [value for value in history.series("reward_error_frac") if value == value]
    if errors:
        yield "unjudged", f"{100 * sum(errors) / len(errors):.2f} %"


def figure(chart: Chart, png: bytes) -> str:
    source = base64.b64encode(png).decode()
    title, caption = escape(chart.title), escape(chart.caption)
    css = ' class="wide"' if chart.wide else ""
    image = f'<img alt="{title}" src="data:image/png;base64,{source}">'
    return f"<figure{css}><h3>{title}</h3>{image}<figcaption>{caption}</figcaption></figure>"


def era_row(era: Era) -> str:
    before, after = ("–" if v is None else f"{v:.3f}" for v in (era.validation_before, era.validation_after))
    cells = [str(era.number), str(era.step), era.cause, f"{before} → {after}"]
    row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    row += f"<td><code>{escape((era.reference_hash or '')[:12])}</code></td><td>{escape(era.abandoned or '')}</td>"
    return f"<tr{' class=gone' if era.abandoned else ''}>{row}</tr>"


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT} characters more)"


def sample_rollouts(run_dir: Path) -> tuple[list[dict[str, Any]], str]:
    """Groups of some steps for the page, and a sentence that says which share of all they are."""
    files = sorted((run_dir / "rollouts").glob("step-*.jsonl"))
    groups = [group for path in evenly(files, SAMPLED_STEPS) for group in read_jsonl(path)[:GROUPS_A_STEP]]
    for group in groups:
        group["messages"] = [message | {"content": shortened(message["content"])} for message in group["messages"]]
        rollouts = group["rollouts"][:ROLLOUTS_A_GROUP]
        group["rollouts"] = [rollout | {"completion": shortened(rollout["completion"])} for rollout in rollouts]
    steps = len({group["step"] for group in groups})
    note = f"A sample: {len(groups)} prompts from {steps} of {len(files)} steps on file, with their verdicts."
    return groups, note if groups else "This run has written no rollouts."


def as_script_data(value: object) -> str:
    """JSON that cannot end the script element it stands in, whatever the completions hold."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
