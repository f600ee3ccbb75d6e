"""The `verifier` command. Parses first, imports what a subcommand needs after, so that `--help` answers at once."""

import argparse
import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from verifier_service.errors import BadInput, CommandError, first_error


def main(argv: Sequence[str] | None = None) -> NoReturn:
    arguments = parser().parse_args(argv)
    run = _COMMANDS[arguments.command]
    try:
        sys.exit(run(arguments))
    except CommandError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # `| head` has seen enough. What is buffered must go somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CommandError.exit_code)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _fail(os.strerror(errno.ENOSPC), CommandError.exit_code)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="verifier", description="Scores completions against verifiable tasks.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="HTTP service; brings its own queue and workers unless given --redis-url")
    serve.add_argument("--host")
    serve.add_argument("--port", type=int)
    serve.add_argument("--api-keys-file", type=Path, help="one key a line; read again when it changes")
    serve.add_argument("--allow-anonymous", action="store_true", default=None, help="serve strangers without a key")
    worker = commands.add_parser("worker", help="grading workers for a cluster")
    worker.add_argument("--queues", nargs="+", choices=["light", "code", "slow"], help="default: all")
    worker.add_argument("--clean-up", type=Path, help=argparse.SUPPRESS)
    score = commands.add_parser("score", help="score a file of items, one JSON object a line")
    score.add_argument("file", type=Path, metavar="FILE.jsonl")
    score.add_argument("--url", type=_url, help="a running service; without it one is started and stopped")
    score.add_argument("--api-key", help="default: VERIFIER_API_KEY")
    score.add_argument("-o", "--out", type=Path, metavar="OUT.jsonl", help="one line of verdicts an item")
    score.add_argument("--workers", type=int, help="grading processes a lane, without --url (default 2)")
    sample = commands.add_parser("sample", help="write prompts with their tasks")
    sample.add_argument("kind", metavar="KIND", help="a Reasoning Gym data set, or a known data set with --from")
    sample.add_argument("--from", dest="source", type=Path, metavar="FILE", help="rows as published")
    sample.add_argument("--dataset", help="the data set, where KIND is `logic`")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--config", default="{}", help="the data set's config as JSON")
    sample.add_argument("-n", "--count", type=_positive, help="default: 1 puzzle, or all rows of the file")
    sample.add_argument("-o", "--out", type=Path, metavar="OUT.jsonl")
    check = commands.add_parser("check", help="find the rows of a task file that cannot be graded or can be cheated")
    check.add_argument("file", type=Path, metavar="FILE.jsonl")
    doctor = commands.add_parser("doctor", help="say whether this host can grade; exit code 0 only if it can")
    doctor.add_argument("--redis-url", help="a queue to check instead of the embedded one")
    for command in (serve, worker):
        command.add_argument("--redis-url", help="redis://, rediss:// or unix://")
        command.add_argument("--workers", type=int, help="grading processes a lane (default 2)")
        command.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    return top


def _settings(arguments: argparse.Namespace) -> Any:
    """Settings from environment and command line. Raises `BadInput`."""
    from_settings = import_module("verifier_service.settings")
    given = {name: getattr(arguments, name, None) for name in from_settings.Settings.model_fields}
    try:
        return from_settings.Settings.load(**given)
    except ValueError as error:
        raise BadInput(first_error(error)) from error  # type: ignore[arg-type]


def _fail(message: str, status: int) -> NoReturn:
    print(f"verifier: {message}", file=sys.stderr)
    sys.exit(status)


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    import_module("verifier_service.log_format").set_up(settings.log_level)
    import_module("verifier_service.serving").serve(settings)
    return 0


def _worker(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    if settings.redis_url is None:
        raise BadInput("worker needs --redis-url or VERIFIER_REDIS_URL")
    import_module("verifier_service.log_format").set_up(settings.log_level)
    supervisor = import_module("verifier_service.supervisor")
    lanes = import_module("verifier_service.lanes")
    try:
        supervisor.Supervisor(settings, settings.redis_address, arguments.queues or lanes.LANES).run()
    finally:
        if arguments.clean_up is not None:
            shutil.rmtree(arguments.clean_up, ignore_errors=True)
    return 0


def _score(arguments: argparse.Namespace) -> int:
    score_file = import_module("verifier_service.score_file")
    client = import_module("verifier_service.client")
    items = score_file.read_items(arguments.file)
    _check_writable(arguments.out)
    settings = _settings(arguments)
    try:
        with contextlib.ExitStack() as stack:
            url = arguments.url or stack.enter_context(_local_service(settings))
            api_key = arguments.api_key or os.environ.get("VERIFIER_API_KEY")
            score_file.score_file(items, url, api_key, arguments.out)
    except client.ServiceError as error:
        raise CommandError(str(error)) from error
    return 0


def _local_service(settings: Any) -> AbstractContextManager[str]:
    import_module("verifier_service.log_format").set_up(settings.log_level)
    service: AbstractContextManager[str] = import_module("verifier_service.serving").local_service(settings)
    return service


def _doctor(arguments: argparse.Namespace) -> int:
    healthy = True
    for check in import_module("verifier_service.doctor").checks(_settings(arguments)):
        passed = check.ok or not check.required
        print(f"{'ok  ' if passed else 'FAIL'} {check.name}: {check.detail}", flush=True)
        healthy = healthy and passed
    return 0 if healthy else CommandError.exit_code


def _check_writable(out: Path | None) -> None:
    """Before the work, so that none is lost. What the file holds stays until there is something to write."""
    try:
        if out is not None:
            out.open("a").close()
    except OSError as error:
        raise BadInput(f"{out}: {error.strerror}") from error


def _url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    raise argparse.ArgumentTypeError(f"{text} is no http:// or https:// address")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _dataset_command(arguments: argparse.Namespace) -> int:
    commands = import_module("verifier_service.dataset_commands")
    if arguments.command == "sample":
        _check_writable(arguments.out)
    return int(getattr(commands, arguments.command)(arguments))


_COMMANDS = {
    "serve": _serve,
    "worker": _worker,
    "score": _score,
    "sample": _dataset_command,
    "check": _dataset_command,
    "doctor": _doctor,
}
