"""What `.ci/run` ends with, by what its parts end with. The parts are stubs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT

NO_ENGINE = 3


def ci(folder: Path, *, test: int = 0, bare: int | None = None, compose: int = 0, minutes: int = 45) -> tuple[int, str]:
    """`test`: status of `make test`; `bare`: of engine.sh where that cannot start; `compose`: of the compose tests."""
    for name in (".ci", "docker", "bin"):
        (folder / name).mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    script(
        folder / "docker/engine.sh", f'[ "$1" = run ] && exit {compose}\n' + (f"exit {bare}" if bare else "shift; $@")
    )
    script(folder / "bin/make", f"exit {test}")
    script(folder / "bin/promtool", "")
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CI_MINUTES": str(minutes)}
    done = subprocess.run([folder / ".ci/run"], env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def test_all_is_well(tmp_path: Path) -> None:
    status, said = ci(tmp_path)
    assert status == 0
    assert "make compose-test passed" in said


def test_failing_tests_fail_it_and_compose_is_not_tried(tmp_path: Path) -> None:
    status, said = ci(tmp_path, test=2)
    assert status == 2
    assert "compose-test" not in said


def test_failing_compose_tests_fail_it(tmp_path: Path) -> None:
    status, said = ci(tmp_path, compose=2)
    assert status == 2
    assert "make compose-test failed" in said


@pytest.mark.parametrize("stub", [{"compose": NO_ENGINE}, {"bare": NO_ENGINE, "compose": NO_ENGINE}])
def test_without_an_engine_it_says_so_and_goes_on(tmp_path: Path, stub: dict[str, int]) -> None:
    status, said = ci(tmp_path, **stub)
    assert status == 0
    assert "make compose-test LEFT OUT: no Docker engine" in said


def test_without_an_engine_failing_tests_still_fail_it(tmp_path: Path) -> None:
    assert ci(tmp_path, test=2, bare=NO_ENGINE)[0] == 2


def test_without_time_compose_is_left_out(tmp_path: Path) -> None:
    status, said = ci(tmp_path, compose=2, minutes=10)
    assert status == 0
    assert "make compose-test LEFT OUT: 10 of 10 minutes are left" in said


def test_compose_that_does_not_end_in_time_is_not_judged(tmp_path: Path) -> None:
    status, said = ci(tmp_path, compose=124)
    assert status == 0
    assert "make compose-test NOT JUDGED" in said
