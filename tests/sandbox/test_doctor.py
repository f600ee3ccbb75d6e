"""The doctor says what the host can do, and says no where it cannot."""

import pytest

from sandbox import doctor, slots
from sandbox.errors import CannotIsolate
from sandbox.profiles import Profile


def test_this_host_isolates() -> None:
    found = {check.name: check for check in doctor.checks()}
    assert all(check.ok for check in found.values() if check.required), found
    assert found["isolation"].detail.partition(":")[0] in slots.LEVELS
    assert "Permission" in found["no sockets"].detail


def test_a_host_that_cannot_isolate_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "LEVELS", ("no_such_level",))
    monkeypatch.setattr(slots, "_level_found", None)
    monkeypatch.setattr("sandbox.warm.WarmProcess._greet", _refuse)
    [check] = doctor.checks()
    assert (check.ok, check.required, check.detail) == (False, True, "no Landlock")
    with pytest.raises(CannotIsolate, match="no Landlock"):
        slots.open_warm_process(Profile())


def _refuse(process: object, profile: Profile, level: str) -> None:
    process.close()  # type: ignore[attr-defined]
    raise CannotIsolate("no Landlock")
