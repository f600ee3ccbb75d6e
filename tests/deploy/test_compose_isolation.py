"""What a container of the running deployment may do: nothing that it need not."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.deploy.compose_project import Compose, asked_for, docker, say
from tests.deploy.manifests import ROOT

pytestmark = asked_for

ESCAPES = [f"tests/sandbox/test_{name}.py" for name in ("escapes", "native", "workdir", "lifetime", "doctor")]
TEST_PACKAGES = ("pytest", "pluggy", "iniconfig", "pytest-timeout", "pytest-asyncio", "hypothesis", "sortedcontainers")
TEST_PACKAGES += ("docker", "requests", "urllib3", "charset-normalizer")
"""What the sandbox's tests need and the image lacks."""
NOT_HERE = {
    "test_native.py::test_files_that_do_not_fit_are_no_fault_of_the_program": "a work directory's size is the mount's",
    "test_native.py::test_a_shell_has_a_limit_of_processes": "counted per uid; here all share one",
}


@pytest.mark.parametrize("service", ["redis", "api", "light-worker", "code-worker"])
def test_containers_are_hardened(deployment: Compose, service: str) -> None:
    for container in deployment.containers(service):
        (found,) = json.loads(docker("inspect", container))
        host = found["HostConfig"]
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["ReadonlyRootfs"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        status = docker("exec", container, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapEff"], 16) == 0
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert fields["Uid"].split()[0] != "0"


def test_the_code_worker_can_isolate(deployment: Compose) -> None:
    say(deployment("exec", "--no-TTY", "code-worker", "verifier", "doctor").replace("\n", "\n    "))


REACH = """
import socket
for host, port in {targets}:
    try:
        socket.create_connection((host, port), 3).close()
        print("reached", host, port)
    except OSError as error:
        print("refused", host, port, type(error).__name__)
"""


def test_a_code_worker_reaches_redis_and_nothing_else(deployment: Compose) -> None:
    (api,) = deployment.containers("api")
    networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", api))
    targets = [("redis", 6379), ("api", 8000), ("light-worker", 8000), ("192.0.2.1", 53), ("1.1.1.1", 53)]
    targets += [(network["IPAddress"], 8000) for network in networks.values()]
    targets += [(network["Gateway"], deployment.port) for network in networks.values() if network["Gateway"]]
    printed = deployment.inside("code-worker", REACH.format(targets=targets)).splitlines()
    assert printed[0] == "reached redis 6379"
    assert len(printed) == len(targets)
    assert [line for line in printed[1:] if not line.startswith("refused")] == []


def test_a_code_worker_may_not_touch_other_lanes(deployment: Compose) -> None:
    program = """
from redis import Redis
from redis.exceptions import NoPermissionError
redis = Redis("redis", username="code", password=open("/run/credentials/password").read())
for command in (["GET", "verifier:job:1"], ["LPUSH", "rq:queue:light", "x"], ["CONFIG", "GET", "*"], ["FLUSHALL"]):
    try:
        print(redis.execute_command(*command))
    except NoPermissionError:
        print("denied")
"""
    assert deployment.inside("code-worker", program).split() == ["denied"] * 4


def installed(distributions: tuple[str, ...]) -> set[Path]:
    """Files and folders at the top of site-packages that belong to these distributions."""
    return {
        Path(str(found.locate_file(file.parts[0])))
        for found in map(distribution, distributions)
        for file in found.files or ()
        if file.parts[0] not in ("..", "__pycache__")
    }


def test_the_escape_suite_inside_the_code_worker(deployment: Compose) -> None:
    """The sandbox's own tests of what nobody gets away with, in a container made exactly like a code worker's."""
    mounts = [f"{ROOT / 'tests'}:/suite/tests:ro", f"{ROOT / 'pyproject.toml'}:/suite/pyproject.toml:ro"]
    mounts += [f"{path}:/packages/{path.name}:ro" for path in installed(TEST_PACKAGES)]
    options = [part for mount in mounts for part in ("--volume", mount)]
    suite = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", *ESCAPES]
    suite += [part for test in NOT_HERE for part in ("--deselect", f"tests/sandbox/{test}")]
    command = ["run", "--rm", "--no-deps", "--workdir", "/suite", "--env", "PYTHONPATH=/packages:/suite", *options]
    printed = deployment(*command, "--no-TTY", "code-worker", *suite, check=False)
    failures = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
    summary = (printed.splitlines() or ["it did not run"])[-1]
    say("\n    ".join([*failures, summary]))
    passed = re.search(r"(\d+) passed", summary)
    assert passed is not None
    assert int(passed[1]) > 200
    assert failures == []
