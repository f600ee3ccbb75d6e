"""docker-compose.yml and the Dockerfiles, read as data: what they must promise whether or not an engine is there."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SERVICES = (
    "credentials",
    "redis",
    "api",
    "light-worker",
    "code-worker",
    "trainer",
    "trainer-gpu",
    "prometheus",
    "grafana",
)
ONE_SHOT = ("credentials", "trainer", "trainer-gpu")

Compose = dict[str, Any]


def started_by(compose: Compose, *profiles: str) -> set[str]:
    return {
        name
        for name, service in compose["services"].items()
        if "profiles" not in service or set(service["profiles"]) & set(profiles)
    }


def sources(compose: Compose, name: str) -> dict[str, str]:
    """Volumes of a service: source -> the rest of the mount."""
    return dict(volume.split(":", 1) for volume in compose["services"][name].get("volumes", []))


def test_every_service_is_known_here(compose: Compose) -> None:
    assert set(compose["services"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_hardened(compose: Compose, name: str) -> None:
    service = compose["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]  # and with it the default seccomp profile
    assert service["read_only"] is True
    assert service["pids_limit"] <= 4096
    assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service)
    assert service.get("network_mode", "none") == "none"
    assert not [source for source in sources(compose, name) if "docker.sock" in source or source in ("/", "/etc")]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "trainer-gpu"])
def test_memory_is_limited(compose: Compose, name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", compose["services"][name]["mem_limit"])


def test_profiles(compose: Compose) -> None:
    service = {"credentials", "redis", "api", "light-worker", "code-worker"}
    assert started_by(compose, "service") == service
    assert started_by(compose, "default") == service | {"trainer"}
    assert started_by(compose, "gpu") == service | {"trainer-gpu"}
    assert started_by(compose, "service", "observability") == service | {"prometheus", "grafana"}
    assert "COMPOSE_PROFILES=default\n" in (ROOT / ".env").read_text()


def test_published_on_loopback_only(compose: Compose) -> None:
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_code_workers_see_redis_and_nothing_else(compose: Compose) -> None:
    assert compose["services"]["code-worker"]["networks"] == ["code-lane"]
    assert {n for n, s in compose["services"].items() if "code-lane" in s.get("networks", [])} == {
        "redis",
        "code-worker",
    }


def test_only_the_front_network_has_a_way_out(compose: Compose) -> None:
    assert {name for name, network in compose["networks"].items() if not network.get("internal")} == {"front"}
    assert {n for n, s in compose["services"].items() if "front" in s.get("networks", [])} == {
        "api",
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize("role", ["api", "light", "code"])
def test_a_password_is_seen_by_its_role_only(compose: Compose, role: str) -> None:
    holders = {name for name in compose["services"] if f"{role}-credentials" in sources(compose, name)}
    assert holders == {"credentials", "api" if role == "api" else f"{role}-worker"}


def test_start_is_ordered_by_health(compose: Compose) -> None:
    for name, service in compose["services"].items():
        for needed, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            if condition == "service_healthy":
                assert "healthcheck" in compose["services"][needed], f"{name} waits for {needed}"
            else:
                assert (condition, needed) == ("service_completed_successfully", "credentials")
    assert "redis" in compose["services"]["code-worker"]["depends_on"]
    assert "api" in compose["services"]["trainer"]["depends_on"]


@pytest.mark.parametrize("name", ["redis", "api", "light-worker", "code-worker"])
def test_what_grades_tells_its_health(compose: Compose, name: str) -> None:
    service = compose["services"][name]
    assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])
    alive = service["environment"].get("VERIFIER_ALIVE_FILE") if name.endswith("worker") else ""
    assert alive is not None
    assert alive in " ".join(service["healthcheck"]["test"])


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in ONE_SHOT])
def test_what_serves_is_restarted(compose: Compose, name: str) -> None:
    assert compose["services"][name]["restart"] == "unless-stopped"


def test_volumes_networks_and_files_exist(compose: Compose) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("networks", [])) <= set(compose["networks"]), name
        for source in sources(compose, name):
            if source == "./data":
                assert name == "trainer-gpu"  # what its config names; the operator's
            elif source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("~"):
                assert source in compose["volumes"], source
    assert all((ROOT / secret["file"]).exists() for secret in compose["secrets"].values())


def test_images_are_pinned_by_a_tag(compose: Compose) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[a-z/-]+:v?\d[\w.-]*", service["image"]), name


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client")
@pytest.mark.parametrize("profile", ["default", "service", "gpu", "observability"])
def test_compose_itself_accepts_the_file(profile: str) -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker compose")
    command = ["docker", "compose", "--profile", profile, "config", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # a warning names a variable without a default


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    def lines(self, path: Path, keyword: str) -> list[str]:
        text = path.read_text().replace("\\\n", " ")
        return [line.split(None, 1)[1] for line in text.splitlines() if line.startswith(f"{keyword} ")]

    def test_bases_are_pinned_and_nothing_claims_a_digest(self, path: Path) -> None:
        stages = {line.split()[-1] for line in self.lines(path, "FROM") if " AS " in line}
        bases = {line.split()[0] for line in self.lines(path, "FROM")} - stages
        assert bases == {"python:3.11-slim-bookworm"}
        assert "sha256:" not in path.read_text()

    def test_runs_as_a_numbered_user_that_is_not_root(self, path: Path) -> None:
        uid, _, gid = self.lines(path, "USER")[-1].partition(":")
        assert int(uid) >= 10000
        assert int(gid) >= 10000

    def test_what_is_copied_exists_and_is_not_ignored(self, path: Path) -> None:
        admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        for line in self.lines(path, "COPY"):
            if line.startswith("--from="):
                continue
            for source in line.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in admitted, source

    def test_is_labelled(self, path: Path) -> None:
        labels = " ".join(self.lines(path, "LABEL"))
        assert "image.title" in labels
        assert "image.licenses" in labels

    def test_nothing_secret_is_baked_in(self, path: Path) -> None:
        assert not re.search(r"(?i)(password|token|secret|api[_-]?key)\s*=", path.read_text())


def printed_dependencies(*arguments: str) -> list[str]:
    command = [sys.executable, "docker/dependencies.py", "pyproject.toml", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def names(requirements: list[str]) -> set[str]:
    """Names of the modules, which for our dependencies are those of the distributions."""
    return {re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].replace("-", "_") for requirement in requirements}


def test_the_service_image_holds_no_torch() -> None:
    assert "fastapi" in names(printed_dependencies())
    assert not names(printed_dependencies()) & {"torch", "transformers", "vllm", "matplotlib"}


def test_the_trainer_image_holds_what_the_trainer_imports() -> None:
    found = re.search(r"--only (\S+)", (ROOT / "docker/trainer.Dockerfile").read_text())
    assert found is not None
    installed = names(printed_dependencies("--extras", "trainer", "--only", found[1])) | {"sandbox", "trainer"}
    files = [
        *(ROOT / "trainer").rglob("*.py"),
        ROOT / "verifier_service/schemas.py",
        ROOT / "verifier_service/client.py",
    ]
    # The image for GPUs adds the first, the others are brought along.
    optional = {"vllm", "tokenizers", "pydantic_core"}
    for path in filter(Path.exists, files):
        imported = {module.split(".")[0] for module in imports_of(path)} - set(sys.stdlib_module_names)
        assert imported <= installed | optional | {"verifier_service"}, path


def imports_of(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
