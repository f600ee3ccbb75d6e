"""The command `trainer`. Parses first and imports torch after, so that `--help` answers at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import ConfigError, TrainerError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad arguments or config, 1 anything else that has a name."""
    arguments = parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except TrainerError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("trainer: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="trainer", description="Prolonged reinforcement learning on verifiable rewards."
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="train; resumes where the run directory holds a checkpoint")
    command.add_argument("config", type=Path, metavar="CONFIG.toml")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="dotted key, TOML value")
    command.set_defaults(run=run)

    command = commands.add_parser("report", help="write report.html and PNGs")
    command.add_argument("run_dir", type=Path)
    command.set_defaults(run=report)

    command = commands.add_parser("export", help="write the policy as a Hugging Face folder")
    command.add_argument("run_dir", type=Path)
    command.add_argument("--step", type=int, help="a step whose checkpoint is kept; default the last one")
    command.add_argument("out", type=Path)
    command.set_defaults(run=export)

    command = commands.add_parser("lineage", help="print the tree of eras")
    command.add_argument("run_dir", type=Path)
    command.set_defaults(run=lineage)
    return root


def run(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from trainer.run_config import load_config
    from verifier_service.client import Client

    config = load_config(arguments.config, arguments.set)

    from trainer.progress import Progress
    from trainer.prompts import sampler_of
    from trainer.train import train

    api_key = os.environ.get(config.reward.api_key_env) or None  # empty is not set
    with Client(config.reward.url, api_key=api_key, patience_s=config.reward.patience_s) as client:
        train(config, client, sampler_of(client), Progress(Console()))


def report(arguments: argparse.Namespace) -> None:
    from trainer.report import write_report

    print(write_report(existing(arguments.run_dir)))


def export(arguments: argparse.Namespace) -> None:
    from trainer.checkpoint import export_policy

    export_policy(existing(arguments.run_dir), arguments.step, arguments.out)


def lineage(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from trainer.lineage import lineage_tree

    Console().print(lineage_tree(existing(arguments.run_dir)), soft_wrap=True)


def existing(run_dir: Path) -> Path:
    """Raises ConfigError where there is no run."""
    if not (run_dir / "ledger.jsonl").is_file():
        raise ConfigError(f"{run_dir} is not a run directory")
    return run_dir
