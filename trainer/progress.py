"""What a person sees: one line a step, and on a terminal a progress bar below."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from trainer.run_config import RunConfig
from trainer.state import RunState


class Progress:
    """Prints a run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def begin(self, state: RunState, config: RunConfig) -> None:
        if state.step == 0:
            for name, value in config.derived().items():
                self._console.print(f"{name}: {value}", highlight=False)
        if state.validation is not None:
            self._console.print(f"step {state.step}  validation {state.validation['blend']:.3f}", highlight=False)
        self._task = self._bar.add_task("training", total=config.num_steps, completed=state.step)
        self._bar.start()

    def show(self, metrics: Mapping[str, Any]) -> None:
        self._console.print(step_line(metrics), highlight=False, soft_wrap=True)
        self._bar.update(self._task, completed=metrics["step"], description=f"era {metrics['era']}")

    def close(self) -> None:
        self._bar.stop()


def step_line(metrics: Mapping[str, Any]) -> str:
    """step 12  era 0  reward 0.31  kl 0.0021  entropy 0.52  grad 1.4  kept 80%  9 tok  1.3 s (generate 0.2, ...)."""
    line = (
        f"step {metrics['step']:<5} era {metrics['era']}  reward {metrics['reward_mean']:.3f}  "
        f"kl {metrics['kl_ref']:.4f}  entropy {metrics['entropy']:.2f}  grad {metrics['grad_norm']:.2f}  "
        f"kept {metrics['kept_group_frac']:.0%}  {metrics['completion_tokens_mean']:.0f} tok  "
        f"{metrics['time_step_s']:.1f} s (generate {metrics['time_generate_s']:.1f}, reward "
        f"{metrics['time_reward_s']:.1f}, update {metrics['time_update_s']:.1f})"
    )
    if metrics["reward_error_frac"] > 0:
        line += f"  [yellow]unknown rewards {metrics['reward_error_frac']:.1%}[/]"
    if "validation" in metrics:
        line += f"  [bold]validation {metrics['validation']['score']:.3f}[/]"
    return line
