"""The doctor says what the host can do, and says no where it cannot."""

import pytest

from sandbox import doctor, slots
from sandbox.errors import CannotIsolate
from sandbox.languages import Toolchain, toolchains
from sandbox.profiles import Profile


def test_this_host_isolates() -> None:
    found = {check.name: check for check in doctor.checks()}
    assert all(check.ok for check in found.values() if check.required), found
    assert found["isolation"].detail.partition(":")[0] in slots.LEVELS
    assert "Permission" in found["no sockets"].detail
    assert {f"language {name}" for name in toolchains()} == {name for name in found if name.startswith("language")}
    assert all(found[f"language {name}"].ok for name in toolchains())


def test_a_language_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Toolchain("cobol", "program.cob", "canary", run_command=("/usr/bin/false", "program.cob"))
    monkeypatch.setattr(doctor, "toolchains", lambda: {"cobol": broken})
    monkeypatch.setattr("sandbox.native.toolchains", lambda: {"cobol": broken})
    [check] = doctor._languages()
    assert (check.name, check.ok) == ("language cobol", False)
    assert "a known-good program fails" in check.detail


def test_a_host_that_cannot_isolate_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "LEVELS", ("no_such_level",))
    monkeypatch.setattr(slots, "_level_found", None)
    monkeypatch.setattr("sandbox.warm.WarmProcess._greet", _refuse)
    [check] = doctor.checks()
    assert (check.ok, check.required, check.detail) == (False, True, "no Landlock")
    with pytest.raises(CannotIsolate, match="no Landlock"):
        slots.open_warm_process(Profile())


def _refuse(process: object, profile: Profile, level: str) -> None:
    raise CannotIsolate("no Landlock")
