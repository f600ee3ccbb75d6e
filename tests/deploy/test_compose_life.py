"""The compose deployment broken, scaled, restarted, shut to strangers, trained with and taken down."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.compose_project import (
    PROJECT,
    Compose,
    asked_for,
    docker,
    meanwhile,
    say,
    score,
    spinning,
    wait_until,
)
from tests.deploy.manifests import ROOT

pytestmark = asked_for


def test_a_killed_worker_container_costs_no_verdict(deployment: Compose) -> None:
    with meanwhile(lambda: score(deployment.url, spinning(24, 0.5))) as answers:
        time.sleep(3)
        docker("kill", deployment.containers("code-worker")[0])
        killed_at = time.monotonic()
    say(f"answered {time.monotonic() - killed_at:.1f} s after the kill")
    assert [verdict["reward"] for verdict in answers[0]] == [1.0] * 24
    deployment.up()


def test_scaling(deployment: Compose) -> None:
    deployment.up(code_workers=4)
    wait_until(lambda: deployment.workers("code") == 4)
    assert [verdict["reward"] for verdict in score(deployment.url, spinning(8, 0.1))] == [1.0] * 8
    deployment.up(code_workers=2)
    wait_until(lambda: deployment.workers("code") == 2)


def test_a_batch_outlives_the_deployment(deployment: Compose) -> None:
    """`down` in mid batch ends within seconds; after `up` the job goes on and every verdict is there."""
    job = httpx.post(f"{deployment.url}/v1/jobs", json={"items": spinning(40, 0.4)}).json()["job_id"]
    time.sleep(2)
    started = time.monotonic()
    deployment("down")
    took_s = time.monotonic() - started
    say(f"down in mid batch in {took_s:.1f} s")
    assert took_s < 30
    deployment.up()
    state: dict[str, Any] = {}

    def finished() -> bool:
        state.update(httpx.get(f"{deployment.url}/v1/jobs/{job}").json())
        return state["status"] == "finished"

    wait_until(finished, 120)
    assert [verdict["reward"] for item in state["items"] for verdict in item["verdicts"]] == [1.0] * 40


def test_it_refuses_to_be_published_without_keys(deployment: Compose) -> None:
    command = ["docker", "compose", "up", "--detach", "--no-deps", "--force-recreate", "api"]
    environment = deployment.environment | {"VERIFIER_PUBLISH": "0.0.0.0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "no-keys-so-VERIFIER_PUBLISH-must-not-be-set" in done.stderr


def test_with_keys_strangers_are_refused(deployment: Compose, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first-key\n")
    tmp_path.chmod(0o755)
    deployment("up", "--detach", "--wait", "--force-recreate", "--no-deps", "api", VERIFIER_API_KEYS_FILE=str(keys))
    body = {"items": spinning(1, 0.0)}
    assert httpx.post(f"{deployment.url}/v1/score", json=body).status_code == 401
    known = {"Authorization": "Bearer first-key"}
    assert httpx.post(f"{deployment.url}/v1/score", json=body, headers=known, timeout=60).status_code == 200


def test_the_demo_trains_and_ends_within_seconds(deployment: Compose) -> None:
    """As `docker compose up` starts it, in the foreground, rewarded by the containers; Ctrl-C ends all of it."""
    default = {"COMPOSE_PROFILES": "default"}
    subprocess.run([ROOT / "docker/build.sh", "--profile", "default"], env=deployment.environment | default, check=True)
    command, environment = ["docker", "compose", "up"], deployment.environment | default
    up = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: bool(steps_of_the_demo(deployment)), 600)
        started = time.monotonic()
        up.send_signal(signal.SIGINT)
        up.wait(60)
    finally:
        up.kill()
        up.wait()
    say(f"Ctrl-C ended it in {time.monotonic() - started:.1f} s")
    assert time.monotonic() - started < 30
    running = deployment("ps", "--quiet", "--status", "running", **default)
    assert running == ""
    volume = docker(
        "run", "--rm", "--volume", f"{PROJECT}_runs:/runs:ro", TRAINER, "sh", "-c", "ls /runs/demo/checkpoints"
    )
    assert "step-" in volume  # SIGTERM made it write one


TRAINER = "prolonged-rl-trainer:0.1.0"


def steps_of_the_demo(deployment: Compose) -> list[dict[str, Any]]:
    command = ("exec", "--no-TTY", "trainer", "cat", "/runs/demo/metrics.jsonl")
    lines = deployment(*command, check=False, COMPOSE_PROFILES="default").splitlines()
    steps = [json.loads(line) for line in lines if line.endswith("}")]
    assert [step["reward_error_frac"] for step in steps] == [0.0] * len(steps)
    return steps


def test_nothing_is_left(deployment: Compose) -> None:
    deployment("down", "--volumes", COMPOSE_PROFILES="default")
    for kind in ("ps --all", "volume ls", "network ls"):
        label = f"label=com.docker.deployment.project={PROJECT}"
        assert docker(*kind.split(), "--quiet", "--filter", label) == ""
