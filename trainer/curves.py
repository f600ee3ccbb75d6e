"""The curves of a run as pictures: metrics in, PNG bytes out. No pyplot, no global state, no display."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Record = dict[str, Any]
"""One step of metrics.jsonl."""

INK, FAINT, GRID = "#1f2933", "#8793a1", "#e6eaef"
BLUE, ORANGE, GREEN, PURPLE, RED = "#2f6fed", "#e8710a", "#12936f", "#7a4fd0", "#d43d51"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, RED, "#0d8ea8", "#b58105", "#5c6b7a")
SMOOTH_PARTS = 25
"""A smoothed line averages over this part of all steps."""


@dataclass(frozen=True)
class History:
    """What the curves are drawn from."""

    records: Sequence[Record]
    """Ascending steps, at least one."""
    era_starts: Sequence[tuple[int, int, str]] = ()
    """First step, number and cause of each era after the first."""
    validations: Sequence[tuple[int, float, float | None]] = ()
    """Step, score of the blend, its error (None: not known)."""

    @property
    def steps(self) -> list[int]:
        return [record["step"] for record in self.records]

    def eras(self) -> list[slice]:
        """Where each era's records lie."""
        firsts = [0, *(self.steps.index(step) for step, _, _ in self.era_starts), len(self.records)]
        return [slice(first, end) for first, end in pairwise(firsts)]

    def series(self, *path: str) -> list[float]:
        """One value a step; NaN where the step has none."""
        return [number_at(record, path) for record in self.records]

    def names(self, *path: str) -> list[str]:
        """The keys ever seen in the object at this path, sorted."""
        return sorted({name for record in self.records for name in object_at(record, path)})


def object_at(record: Record, path: Sequence[str]) -> dict[str, Any]:
    for key in path:
        record = record.get(key) or {}
    return record


def number_at(record: Record, path: Sequence[str]) -> float:
    value = object_at(record, path[:-1]).get(path[-1])
    return float("nan") if value is None else float(value)


def smoothed(values: Sequence[float], half: int) -> list[float]:
    """Centred mean over 2 * half + 1 values, fewer at the ends; NaN values count nowhere."""
    means = []
    for i in range(len(values)):
        window = [value for value in values[max(0, i - half) : i + half + 1] if value == value]
        means.append(sum(window) / len(window) if window else float("nan"))
    return means


def draw_line(axes: Axes, history: History, values: Sequence[float], name: str, color: str) -> None:
    """The values pale, their smoothed course on top; broken where an era ends, so that no reset is smoothed away."""
    for i, part in enumerate(history.eras()):
        steps, course = history.steps[part], values[part]
        marker = "o" if len(course) == 1 else None
        if len(values) >= 2 * SMOOTH_PARTS:
            axes.plot(steps, course, color=color, alpha=0.25, linewidth=0.9)
        smooth = smoothed(course, len(values) // (2 * SMOOTH_PARTS))
        axes.plot(steps, smooth, color=color, linewidth=1.8, label="" if i else name, marker=marker, markersize=4)


def draw_eras(axes: Axes, history: History) -> None:
    """A line and a label where an era begins."""
    for first_step, number, cause in history.era_starts:
        axes.axvline(first_step - 0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        label = f" era {number} · {cause.replace('_', ' ')}" if len(history.era_starts) < 5 else f" {number}"
        axes.annotate(
            label, (first_step - 0.5, 1.0), xycoords=("data", "axes fraction"), fontsize=7, color=FAINT, va="bottom"
        )


def draw_validations(axes: Axes, history: History) -> None:
    if not history.validations:
        return
    steps, scores, errors = zip(*history.validations, strict=True)
    bars = [error or 0.0 for error in errors]
    axes.errorbar(
        steps, scores, yerr=bars, color=ORANGE, linewidth=1.4, marker="o", markersize=4, capsize=2, label="validation"
    )


def draw_reward(axes: Axes, history: History) -> None:
    draw_line(axes, history, history.series("reward_mean"), "training", BLUE)
    draw_validations(axes, history)


def draw_domains(axes: Axes, history: History) -> None:
    for name, color in zip(history.names("domains"), cycle(PALETTE), strict=False):
        draw_line(axes, history, history.series("domains", name, "reward_mean"), name, color)


def draw_pass_at_k(axes: Axes, history: History) -> None:
    """One line for each set and k: a color a set, a style a k."""
    for name, color in zip(history.names("validation", "sets"), cycle(PALETTE), strict=False):
        ks = sorted(history.names("validation", "sets", name, "pass_at"), key=int)
        for k, style in zip(ks, cycle(("-", "--", ":", "-.")), strict=False):
            values = history.series("validation", "sets", name, "pass_at", k)
            points = [(step, value) for step, value in zip(history.steps, values, strict=True) if value == value]
            if points:
                steps, rates = zip(*points, strict=True)
                axes.plot(steps, rates, style, color=color, marker="o", markersize=4, label=f"{name} pass@{k}")


def draw_times(axes: Axes, history: History) -> None:
    parts = {"generate": BLUE, "reward, not hidden": ORANGE, "update": GREEN, "sync": PURPLE}
    half = len(history.records) // (2 * SMOOTH_PARTS)
    columns = [smoothed(history.series(f"time_{name.split(',')[0]}_s"), half) for name in parts]
    axes.stackplot(history.steps, *columns, labels=list(parts), colors=list(parts.values()), alpha=0.85, linewidth=0)


def lines(**names: str) -> Callable[[Axes, History], None]:
    """Draws the metrics named, each under its label."""

    def draw(axes: Axes, history: History) -> None:
        for (metric, label), color in zip(names.items(), cycle(PALETTE), strict=False):
            draw_line(axes, history, history.series(metric), label, color)

    return draw


@dataclass(frozen=True)
class Chart:
    """One picture: `NAME.png`."""

    name: str
    title: str
    unit: str
    caption: str
    draw: Callable[[Axes, History], None]
    wide: bool = False


CHARTS = (
    Chart(
        "reward",
        "Reward",
        "mean reward",
        "Training completions before filtering; validation ± its sampling error. Dashed: resets.",
        draw_reward,
        wide=True,
    ),
    Chart("domains", "Reward per domain", "mean reward", "Training completions whose reward is known.", draw_domains),
    Chart("pass_at_k", "Validation pass@k", "pass rate", "Unbiased estimate, mean over prompts.", draw_pass_at_k),
    Chart("kl", "KL to the reference", "nats a token", "Falls to zero at a reset.", lines(kl_ref="policy ‖ reference")),
    Chart("entropy", "Entropy", "nats a token", "A fall to zero is a collapse.", lines(entropy="policy")),
    Chart("length", "Completion length", "tokens", "Mean over completions.", lines(completion_tokens_mean="mean")),
    Chart(
        "clip",
        "Clipped tokens",
        "share of tokens",
        "Tokens whose gradient the clip removed.",
        lines(clip_low_frac="low (A < 0)", clip_high_frac="high (A > 0)"),
    ),
    Chart(
        "shares",
        "Groups and completions",
        "share",
        "Kept: groups with a spread in reward. Truncated and unjudged: completions.",
        lines(kept_group_frac="groups kept", truncated_frac="truncated", reward_error_frac="unjudged"),
    ),
    Chart("mismatch", "Sampler against trainer", "nats a token", "KL.", lines(logprob_mismatch_kl="rollout ‖ trainer")),
    Chart("grad_norm", "Gradient norm", "L2", "Before clipping.", lines(grad_norm="gradient")),
    Chart("time", "Where the time goes", "s a step", "Smoothed.", draw_times),
    Chart("speed", "Speed", "tokens a second", "Completion tokens.", lines(tokens_per_s="trained")),
)


def render(chart: Chart, history: History) -> bytes | None:
    """The chart as PNG, or None where the run has none of its numbers."""
    figure = Figure(figsize=(11.2, 3.5) if chart.wide else (5.6, 2.9), dpi=150, layout="constrained")
    axes = figure.subplots()
    chart.draw(axes, history)
    if not axes.has_data():
        return None
    draw_eras(axes, history)
    style(axes, chart)
    handles, _ = axes.get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(loc="outside lower center", frameon=False, fontsize=8, labelcolor=INK, ncols=min(5, len(handles)))
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def style(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel("step", color=INK, fontsize=8)
    axes.set_ylabel(chart.unit, color=INK, fontsize=8)
    axes.tick_params(colors=FAINT, labelsize=8, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.yaxis.get_offset_text().set(fontsize=7, color=FAINT)
