"""The compose deployment, built and started. The modules of `make compose-test` run in its order and share it."""

import json
import os
import time

import httpx

from tests.deploy.compose_project import Compose, asked_for, docker, say

pytestmark = asked_for

MB = 1_000_000


def size_of(image: str) -> int:
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def test_the_image_is_small(deployment: Compose) -> None:
    python_only = "prolonged-rl-service:python-only"
    deployment.build(LANGUAGES="", VERIFIER_IMAGE=python_only)
    full = json.loads(deployment("config", "--format", "json"))["services"]["api"]["image"]
    say(f"image: {size_of(python_only) / MB:.0f} MB with Python only, {size_of(full) / MB:.0f} MB with C and C++")
    program = "du -sm /opt/verifier/lib/python3*/site-packages/* | sort -rn | head -8"
    say("largest packages (MB): " + " ".join(docker("run", "--rm", full, "sh", "-c", program).split()))
    assert size_of(python_only) < 600 * MB
    assert size_of(full) < 950 * MB


def test_it_comes_up_within_half_a_minute(deployment: Compose) -> None:
    """Of a machine that has nothing else to do; on a busy one as much longer as each of its processes takes."""
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    started = time.monotonic()
    deployment.up()
    took_s = time.monotonic() - started
    say(f"up and ready in {took_s:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert httpx.get(f"{deployment.url}/readyz").status_code == 200
    assert took_s < 30 * crowd


def test_it_is_published_on_loopback_only(deployment: Compose) -> None:
    (api,) = deployment.containers("api")
    published = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", api))["8000/tcp"]
    assert [binding["HostIp"] for binding in published] == ["127.0.0.1"]
