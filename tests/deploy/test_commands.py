"""What containers are told: every command is understood, every variable is read, every setting is documented."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.profiles import WORK_DIRS_VARIABLE
from tests.deploy.manifests import OVERLAYS, ROOT, rendered
from trainer.cli import parser as trainer_parser
from trainer.run_config import load_config
from verifier_service.cli import parser as verifier_parser
from verifier_service.settings import ENV_PREFIX, Settings

VARIABLES = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
OF_COMPOSE = {"VERIFIER_PUBLISH", "VERIFIER_METRICS_KEY_FILE", "VERIFIER_IMAGE"}
"""Read by docker-compose.yml itself, never by a container."""
OF_THE_TRAINER = {"VERIFIER_API_KEY"}


def commands(compose: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Every command line of ours, by where it stands."""
    for name, service in compose["services"].items():
        yield f"compose: {name}", service.get("command", [])
    for overlay in OVERLAYS:
        for workload in rendered(overlay).workloads():
            for container in workload.containers:
                yield f"{overlay}: {workload.name}", container.get("command", []) + container.get("args", [])


def test_every_command_of_the_service_is_understood(compose: dict[str, Any]) -> None:
    found = [(where, command) for where, command in commands(compose) if command[:1] == ["verifier"]]
    assert len(found) >= 3 * len(OVERLAYS) + 3
    for where, command in found:
        try:
            verifier_parser().parse_args(command[1:])
        except SystemExit:
            pytest.fail(f"{where}: {' '.join(command)}")


def test_every_command_of_the_trainer_is_understood(compose: dict[str, Any]) -> None:
    found = [
        (where, command[command.index("trainer") :]) for where, command in commands(compose) if "trainer" in command
    ]
    assert len(found) >= 4
    for _where, command in found:
        arguments = trainer_parser().parse_args(command[1:])
        load_config(ROOT / arguments.config, arguments.set)


def test_every_variable_of_a_container_is_read(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        given = {variable for variable in service.get("environment", {}) if variable.startswith(ENV_PREFIX)}
        assert given <= VARIABLES | OF_THE_TRAINER, name
    for overlay in OVERLAYS:
        for manifest in rendered(overlay).of("Deployment", "StatefulSet", "Job", "TrainingRuntime", "ConfigMap"):
            given = set(re.findall(r"\bVERIFIER_[A-Z_]+\b", str(manifest)))
            assert given <= VARIABLES | OF_THE_TRAINER, manifest["metadata"]["name"]


def test_every_variable_of_the_compose_file_is_documented() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    assert [name for name in sorted(used) if f"`{name}`" not in guide] == []


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    documented = set(re.findall(r"`(VERIFIER_[A-Z_]+)\b", guide))
    assert documented == VARIABLES | OF_COMPOSE | OF_THE_TRAINER


def test_defaults_in_the_guide_are_the_settings_own() -> None:
    """The table's rows that give plain numbers for their variables."""
    rows = re.findall(
        r"^\| ((?:`VERIFIER_[A-Z_]+`(?:, )?)+) \| ([\d., ]+) \|", (ROOT / "docs/operations.md").read_text(), re.M
    )
    checked = 0
    for variables, numbers in rows:
        for variable, number in zip(re.findall(r"VERIFIER_[A-Z_]+", variables), numbers.split(", "), strict=True):
            field = variable.removeprefix(ENV_PREFIX).lower()
            assert Settings.model_fields[field].default == float(number), variable
            checked += 1
    assert checked >= 12


def test_pods_have_time_to_drain() -> None:
    for overlay in OVERLAYS:
        for name in ("Deployment/api", "Deployment/light-worker", "Deployment/code-worker"):
            grace_s = rendered(overlay).workload(name).pod["terminationGracePeriodSeconds"]
            assert grace_s >= Settings().drain_s + 10, (overlay, name)


def test_the_ingress_admits_what_the_service_does() -> None:
    (ingress,) = rendered("overlays/production").of("Ingress")
    size = ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert size == f"{Settings().max_body_bytes >> 20}m"


def test_every_worker_of_code_has_its_work_directories(compose: dict[str, Any]) -> None:
    """Eight a grading process: what the sandbox keeps warm for Python and for compilers, one directory each."""
    service = compose["services"]["code-worker"]
    directories = service["environment"][WORK_DIRS_VARIABLE].split(":")
    mounted = [mount.partition(":")[0] for mount in service["tmpfs"]]
    assert set(directories) <= set(mounted)
    assert all("size=" in mount for mount in service["tmpfs"])
    assert len(directories) >= 8 * int(service["command"][service["command"].index("--workers") + 1])
    for overlay in OVERLAYS:
        worker = rendered(overlay).workload("Deployment/code-worker")
        (container,) = worker.containers
        given = {variable["name"]: variable.get("value", "") for variable in container["env"]}
        directories = given[WORK_DIRS_VARIABLE].split(":")
        assert set(directories) <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert len(directories) >= 8 * int(container["command"][-1])
