"""`verifier doctor`: can this host grade? One line a check; each check does the thing instead of guessing."""

from collections.abc import Callable, Iterator
from functools import partial

from redis import Redis

from sandbox import doctor as isolation
from sandbox.doctor import Check
from sandbox.errors import SandboxError
from sandbox.types import ExecutionRequest, Status
from verifier_service import puzzles
from verifier_service.embedded import find_redis
from verifier_service.errors import CommandError
from verifier_service.registry import kinds, verifier_for
from verifier_service.settings import Settings
from verifier_service.tools import WorkerTools


def checks(settings: Settings) -> Iterator[Check]:
    """Every check, as it is made."""
    yield from isolation.checks()
    tools = WorkerTools()
    try:
        yield _check("programs run isolated", lambda: _runs(tools))
        yield _check("functions run isolated", lambda: _calls(tools))
    finally:
        tools.close()
    yield _check("queue", lambda: _redis(settings))
    for kind in kinds():
        yield _check(f"verifier {kind}", partial(_verifier, kind))
    yield _check("Reasoning Gym", lambda: f"{len(puzzles.dataset_names())} data sets")


def _check(name: str, attempt: Callable[[], str]) -> Check:
    """Whatever a check raises is what it has to say."""
    try:
        return Check(name, True, attempt())
    except Exception as error:
        return Check(name, False, str(error) or type(error).__name__)


def _runs(tools: WorkerTools) -> str:
    result = tools.runner.execute(ExecutionRequest(source="print(input())", stdin=b"canary\n"))
    if result.status is not Status.OK or result.stdout != b"canary\n":
        raise SandboxError(f"a harmless program ended with {result.status}: {result.detail}")
    return f"{result.cpu_time_s * 1000:.1f} ms CPU for a harmless program"


def _calls(tools: WorkerTools) -> str:
    result = tools.isolated("json:dumps").call("canary")
    if result.status is not Status.OK:
        raise SandboxError(f"a harmless call ended with {result.status}: {result.detail}")
    return "a harmless function answers"


def _redis(settings: Settings) -> str:
    if settings.redis_address is None:
        return f"embedded: {find_redis()}"
    version = Redis.from_url(settings.redis_address, socket_timeout=5).info("server")["redis_version"]
    if tuple(map(int, version.split(".")[:2])) < (6, 2):
        raise CommandError(f"Redis {version} is too old, 6.2 is needed")
    return f"Redis {version}"


def _verifier(kind: str) -> str:
    verifier = verifier_for(kind)
    languages = verifier.info().get("languages")
    return f"version {verifier.version}" + (f", languages {', '.join(languages)}" if languages else "")
