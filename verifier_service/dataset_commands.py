"""`verifier sample` and `verifier check`: the commands that write and examine task files."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import track

from verifier_service import converters, puzzles, sampling
from verifier_service.check import check_file
from verifier_service.errors import BadInput, TaskRefused
from verifier_service.schemas import Item, SampledItem
from verifier_service.tools import WorkerTools


def sample(arguments: argparse.Namespace) -> int:
    """Writes items, one a line. 0 where any was written. Raises `BadInput`."""
    refused: list[str] = []
    try:
        items = _sampled(arguments, refused)
        written = _write(items, arguments.out)
    except TaskRefused as error:
        raise BadInput(f"{error.field}: {error.message}") from error
    for reason in refused[:5]:
        print(f"left out {reason}", file=sys.stderr)
    print(f"{written} items written, {len(refused)} rows left out", file=sys.stderr)
    return 0 if written else 1


def _sampled(arguments: argparse.Namespace, refused: list[str]) -> Iterator[SampledItem | Item]:
    if arguments.kind in converters.CONVERTERS:
        if arguments.source is None:
            raise BadInput(f"{arguments.kind} is read from a file: give --from FILE")
        return islice(converters.converted(arguments.kind, arguments.source, refused), arguments.count)
    if arguments.kind == "logic" and arguments.dataset is None:
        raise BadInput("logic needs --dataset NAME")
    dataset = arguments.dataset if arguments.kind == "logic" else arguments.kind
    if dataset not in puzzles.dataset_names():
        known = ", ".join(["logic --dataset NAME", *converters.CONVERTERS])
        raise BadInput(f"{dataset!r} is neither a Reasoning Gym data set nor one of {known}")
    try:
        config = json.loads(arguments.config)
    except ValueError as error:
        raise BadInput(f"--config is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise BadInput("--config is no JSON object")
    return iter(sampling.sample(dataset, arguments.seed, arguments.count or 1, config))


def _write(items: Iterator[SampledItem | Item], out: Path | None) -> int:
    written = 0
    with contextlib.nullcontext(sys.stdout) if out is None else out.open("w") as target:
        for written, item in enumerate(items, 1):  # noqa: B007
            target.write(item.model_dump_json() + "\n")
    return written


def check(arguments: argparse.Namespace) -> int:
    """Prints the broken rows and a summary. 1 where any row is broken. Raises `BadInput`."""
    try:
        num_rows = sum(1 for line in arguments.file.read_bytes().split(b"\n") if line.strip())
    except OSError as error:
        raise BadInput(f"{arguments.file}: {error.strerror}") from error
    if not num_rows:
        raise BadInput(f"{arguments.file} holds no rows")
    tools = WorkerTools()
    console = Console(file=sys.stderr)
    num_broken = num_given_back = 0
    try:
        results = check_file(arguments.file, tools)
        for result in track(results, "checking", num_rows, console=console, disable=not console.is_terminal):
            num_given_back += result.has_oracle
            num_broken += bool(result.faults)
            for fault in result.faults:
                print(fault, flush=True)
    finally:
        tools.close()
    print(f"{num_rows} rows, {num_broken} broken; the ground truth of {num_given_back} was given back as an answer")
    return 1 if num_broken else 0
