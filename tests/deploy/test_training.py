"""The training overlays and the GPU profile: trainer and vLLM servers agree with each other and with the config."""

import itertools
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.deploy.manifests import ROOT, Overlay, Workload, rendered
from trainer.engine.config import EngineConfig
from trainer.engine.vllm_servers import own_server

TRAINERS = {"overlays/training": "Job/trainer", "overlays/training-kubeflow": "TrainingRuntime/trainer"}


def settings(arguments: list[str]) -> dict[str, str]:
    """`--set key=value` -> value by key."""
    pairs = [after for before, after in itertools.pairwise(arguments) if before == "--set"]
    return dict(pair.split("=", 1) for pair in pairs)


def options(workload: Workload) -> dict[str, str]:
    """`--name=value` -> value by name; empty where there is none."""
    (container,) = workload.containers
    return dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])


@pytest.fixture(params=TRAINERS)
def training(request: pytest.FixtureRequest) -> Overlay:
    return rendered(request.param)


def test_the_trainer_knows_every_server_by_its_name(training: Overlay) -> None:
    servers = training.workload("StatefulSet/vllm")
    (port,) = servers.ports().values()
    names = [f"http://vllm-{number}.vllm:{port}" for number in range(servers.manifest["spec"]["replicas"])]
    given = settings(training.workload(TRAINERS[training.name]).containers[0]["args"])
    assert given["engine.kind"] == "vllm_http"
    assert json.loads(given["engine.urls"]) == names
    assert servers.manifest["spec"]["serviceName"] in training.names("Service")
    assert options(servers)["port"] == str(port)


def test_trainer_and_servers_are_of_one_image_and_model(training: Overlay) -> None:
    trainer, servers = (training.workload(name) for name in (TRAINERS[training.name], "StatefulSet/vllm"))
    assert trainer.containers[0]["image"] == servers.containers[0]["image"]
    assert settings(trainer.containers[0]["args"])["model.path"] == options(servers)["model"] == "$(MODEL)"
    assert trainer.containers[0]["envFrom"] == servers.containers[0]["envFrom"]


def test_servers_are_started_as_the_trainer_starts_its_own(training: Overlay) -> None:
    (config,) = [a for a in training.workload(TRAINERS[training.name]).containers[0]["command"] if a.endswith(".toml")]
    tokens = longest(tomllib.loads((ROOT / config).read_text()))
    own = own_server("0", "$(MODEL)", EngineConfig(), tokens, torch.bfloat16, "nccl", Path("unused")).command
    expected = {
        flag.removeprefix("--"): "" if value.startswith("--") else value
        for flag, value in itertools.pairwise([*own, "--"])
        if flag.startswith("--")
    }
    given = options(training.workload("StatefulSet/vllm"))
    here = {"host", "port", "max-model-len", "tensor-parallel-size"}
    assert {name: given[name] for name in given if name not in here} == {
        name: expected[name] for name in expected if name not in here
    }
    assert int(given["max-model-len"]) >= tokens


def test_servers_take_weights(training: Overlay) -> None:
    servers = training.workload("StatefulSet/vllm")
    assert json.loads(options(servers)["weight-transfer-config"]) == {"backend": "nccl"}
    environment = {variable["name"]: variable.get("value") for variable in servers.containers[0]["env"]}
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


def longest(config: dict[str, Any]) -> int:
    """Tokens of prompt and completion, in the stage that allows most."""
    stages = [stage["set"].get("sampling.max_tokens", 0) for stage in config["stages"]]
    sampling = config["sampling"]
    return int(sampling["max_prompt_tokens"]) + max(int(sampling["max_tokens"]), *stages)


COMPONENT = "app.kubernetes.io/component"


def peers(rule: dict[str, Any], direction: str) -> set[str]:
    """Components that a rule names."""
    found: set[str] = set()
    for peer in rule[direction]:
        selector = peer.get("podSelector", {})
        if COMPONENT in selector.get("matchLabels", {}):
            found.add(selector["matchLabels"][COMPONENT])
        for expression in selector.get("matchExpressions", []):
            assert (expression["key"], expression["operator"]) == (COMPONENT, "In")
            found |= set(expression["values"])
    return found


def opens(rule: dict[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    return ports is None or any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)


def test_routes_that_take_weights_are_reached_by_the_trainer_only(training: Overlay) -> None:
    servers = training.workload("StatefulSet/vllm")
    assert options(servers)["host"] == "$(POD_IP)"
    (port,) = servers.ports().values()
    rules = [rule for policy in training.policies_on(servers) for rule in policy.get("ingress", [])]
    assert rules
    assert all(rule.get("from") for rule in rules)
    assert set().union(*(peers(rule, "from") for rule in rules if opens(rule, port))) == {"trainer"}


@pytest.mark.parametrize("other", ["trainer", "vllm"])
def test_servers_and_trainer_meet_for_weights_on_whatever_port(training: Overlay, other: str) -> None:
    """A broadcast goes from server to server, not from the trainer to each."""
    policies = training.policies_on(training.workload("StatefulSet/vllm"))
    for direction, side in (("ingress", "from"), ("egress", "to")):
        rules = [rule for policy in policies for rule in policy.get(direction, []) if other in peers(rule, side)]
        assert all(any(opens(rule, port) for rule in rules) for port in (32768, 47123, 60999))


def test_a_hung_engine_is_started_again(training: Overlay) -> None:
    """`/health` is answered in front of the engine, also while that waits for a trainer that is gone."""
    (container,) = training.workload("StatefulSet/vllm").containers
    assert container["livenessProbe"]["httpGet"]["path"] == "/weight_info"


def test_files_of_the_config_are_mounted(training: Overlay, compose: dict[str, Any]) -> None:
    """Sources are named relative to where the trainer runs, /app."""
    config = tomllib.loads((ROOT / "configs/prorl-1.5b.toml").read_text())
    assert {source["path"].split("/")[0] for source in config["data"]["sources"]} == {"data"}
    trainer = training.workload(TRAINERS[training.name])
    assert "/app/data" in [mount["mountPath"] for mount in trainer.containers[0]["volumeMounts"]]
    assert [v for v in compose["services"]["trainer-gpu"]["volumes"] if ":/app/data:" in v]
    assert "WORKDIR /app\n" in (ROOT / "docker/trainer.Dockerfile").read_text()


def test_kernels_compiled_on_first_use_can_run(compose: dict[str, Any]) -> None:
    """Docker mounts a tmpfs without the right to execute unless it is told."""
    (mount,) = compose["services"]["trainer-gpu"]["tmpfs"]
    assert mount.startswith("/tmp:")
    assert "exec" in mount.split(":")[1].split(",")


def test_the_gpu_profile_samples_with_vllm_on_every_gpu(compose: dict[str, Any]) -> None:
    command = compose["services"]["trainer-gpu"]["command"]
    assert command[: command.index("trainer")] == ["torchrun", "--standalone", "--nproc-per-node=gpu", "--no-python"]
    assert settings(command)["engine.kind"] == "vllm"
