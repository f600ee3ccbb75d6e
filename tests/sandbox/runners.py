"""Every way this host can isolate, for tests that must hold in each."""

import functools
import os

import pytest

from sandbox.errors import SandboxError
from sandbox.profiles import Profile
from sandbox.slots import LEVELS
from sandbox.warm import WarmProcess

SHARED_UID = "landlock_shared_uid"
"""The weakest that is accepted: no namespaces and no uid of its own, as in a container without capabilities."""
WAYS = (*LEVELS, SHARED_UID)


def profile_of(way: str, **options: object) -> Profile:
    if way == SHARED_UID:
        return Profile(level="landlock", uid_range=None, **options)  # type: ignore[arg-type]
    return Profile(level=way, **options)  # type: ignore[arg-type]


@functools.cache
def lacking(way: str) -> str | None:
    try:
        WarmProcess(profile_of(way, preload=()), profile_of(way).level or "").close()
    except SandboxError as error:
        return str(error)
    return None


def require(way: str) -> None:
    """Skip where the host lacks it; as root in CI everything must be there."""
    missing = lacking(way)
    if missing is None:
        return
    assert not (os.environ.get("CI") and os.geteuid() == 0), missing
    pytest.skip(missing)
