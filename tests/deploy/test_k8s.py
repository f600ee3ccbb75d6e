"""The Kubernetes objects: each against the schemas, all against each other."""

import os
import re
from collections import defaultdict
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from tests.deploy.custom_resources import MODELS, check, is_custom
from tests.deploy.manifests import OVERLAYS, ROOT, Overlay, Workload, rendered, secrets, selects

VERSIONS = ("1.31", "1.34", "1.37")


@pytest.fixture(scope="session")
def made_secrets() -> dict[str, set[str]]:
    return secrets()


# Each object alone.


@pytest.mark.parametrize("version", VERSIONS)
def test_schemas_of_kubernetes(overlay: Overlay, version: str) -> None:
    built_in = [manifest for manifest in overlay.objects if not is_custom(manifest)]
    assert len(built_in) > 20
    for manifest in built_in:
        kubernetes_validate.validate(manifest, version, strict=True)
    for runtime in overlay.of("TrainingRuntime"):
        kubernetes_validate.validate(as_job(Workload(runtime)), version, strict=True)


def as_job(workload: Workload) -> dict[str, Any]:
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": {"template": workload.template}}


def test_custom_resources_against_models_of_our_own(overlay: Overlay) -> None:
    for manifest in filter(is_custom, overlay.objects):
        check(manifest)


def test_the_base_needs_no_custom_resources() -> None:
    assert not [manifest for manifest in rendered("base").objects if is_custom(manifest)]


def test_secrets_fit_the_schema(made_secrets: dict[str, set[str]]) -> None:
    assert {"redis-users", "redis-api", "redis-light", "redis-code", "api-keys"} <= set(made_secrets)


# The checks themselves can fail.


def test_an_unknown_field_is_refused_by_the_schemas() -> None:
    deployment = rendered("base").of("Deployment")[0]
    broken = deployment | {"spec": deployment["spec"] | {"replcas": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("kind", [kind for _, kind in MODELS])
def test_an_unknown_field_is_refused_by_our_models(kind: str) -> None:
    manifests = [m for name in OVERLAYS for m in rendered(name).objects if is_custom(m) and m["kind"] == kind]
    assert manifests, f"no overlay uses {kind}: its model can go"
    with pytest.raises(ValidationError):
        check(manifests[0] | {"spec": manifests[0]["spec"] | {"oops": 1}})


# Across objects.


def test_everything_is_in_the_namespace(overlay: Overlay) -> None:
    cluster_wide = {"Namespace", "RuntimeClass"}
    for manifest in overlay.objects:
        namespace = manifest["metadata"].get("namespace")
        assert namespace == (None if manifest["kind"] in cluster_wide else "prolonged-rl"), manifest["metadata"]["name"]


def test_a_workload_selects_its_own_pods_and_no_others(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        if workload.serves:  # the cluster makes the selector of a Job
            assert overlay.matching(workload.manifest["spec"]["selector"]) == [workload]


def test_services_find_pods_with_that_port(overlay: Overlay) -> None:
    for service in overlay.of("Service"):
        found = overlay.matching({"matchLabels": service["spec"]["selector"]})
        assert len(found) == 1, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in found[0].ports(), service["metadata"]["name"]


def test_ingresses_and_monitors_name_ports_of_services(overlay: Overlay) -> None:
    ports = {s["metadata"]["name"]: {p["name"] for p in s["spec"]["ports"]} for s in overlay.of("Service")}
    for ingress in overlay.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                assert backend["port"]["name"] in ports[backend["name"]]
        assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"] for rule in ingress["spec"]["rules"]]
    for monitor in overlay.of("ServiceMonitor"):
        watched = [s for s in overlay.of("Service") if selects(monitor["spec"]["selector"], s["metadata"]["labels"])]
        assert watched
        for endpoint in monitor["spec"]["endpoints"]:
            assert all(endpoint["port"] in ports[service["metadata"]["name"]] for service in watched)


def test_config_maps_exist(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        assert {name for name, _ in workload.references("configMap")} <= overlay.names("ConfigMap"), workload.name


def test_secrets_exist_with_the_keys_that_are_read(overlay: Overlay, made_secrets: dict[str, set[str]]) -> None:
    for workload in overlay.workloads():
        for name, key in workload.references("secret"):
            assert name in made_secrets, workload.name
            assert key is None or key in made_secrets[name], workload.name
    for monitor in overlay.of("ServiceMonitor"):
        for endpoint in monitor["spec"]["endpoints"]:
            credentials = endpoint["authorization"]["credentials"]
            assert credentials["key"] in made_secrets[credentials["name"]]


def test_files_named_by_variables_are_mounted(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        for container in workload.containers:
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            for variable in container.get("env", []):
                if variable["name"].endswith("_FILE"):
                    assert variable["value"].rpartition("/")[0] in mounts, (workload.name, variable["name"])


def test_volumes_and_mounts_agree(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        claims = [claim["metadata"]["name"] for claim in workload.manifest["spec"].get("volumeClaimTemplates", [])]
        volumes = [volume["name"] for volume in workload.pod.get("volumes", [])] + claims
        mounted = {mount["name"] for container in workload.containers for mount in container.get("volumeMounts", [])}
        assert mounted == set(volumes), workload.name
        for volume in workload.pod.get("volumes", []):
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in overlay.names("PersistentVolumeClaim")


def test_addresses_come_from_services_that_exist(overlay: Overlay) -> None:
    known = {name.upper().replace("-", "_") + "_SERVICE_HOST" for name in overlay.names("Service")}
    for workload in overlay.workloads():
        assert set(re.findall(r"\$\((\w+_SERVICE_HOST)\)", yaml.safe_dump(workload.manifest))) <= known, workload.name


def test_no_service_puts_a_setting_into_the_environment(overlay: Overlay) -> None:
    assert not [name for name in overlay.names("Service") if name.upper().startswith("VERIFIER")]


def test_scalers_and_budgets_have_their_target(overlay: Overlay) -> None:
    deployments = overlay.names("Deployment")
    for scaler in overlay.of("HorizontalPodAutoscaler", "ScaledObject"):
        assert scaler["spec"]["scaleTargetRef"]["name"] in deployments
    for budget in overlay.of("PodDisruptionBudget"):
        assert len(overlay.matching(budget["spec"]["selector"])) == 1


def test_one_scaler_a_deployment_and_no_fixed_replicas_beside_it(overlay: Overlay) -> None:
    scalers: dict[str, list[str]] = defaultdict(list)
    for scaler in overlay.of("HorizontalPodAutoscaler", "ScaledObject"):
        scalers[scaler["spec"]["scaleTargetRef"]["name"]].append(scaler["kind"])
    assert all(len(kinds) == 1 for kinds in scalers.values()), scalers
    for deployment in overlay.of("Deployment"):
        if deployment["metadata"]["name"] in scalers:
            assert "replicas" not in deployment["spec"], deployment["metadata"]["name"]
    workers = {"light-worker", "code-worker"}
    kind = "ScaledObject" if overlay.name == "overlays/production" else "HorizontalPodAutoscaler"
    assert all(scalers[worker] == [kind] for worker in workers)


def test_a_train_job_has_its_runtime() -> None:
    overlay = rendered("overlays/training-kubeflow")
    (job,) = overlay.of("TrainJob")
    assert job["spec"]["runtimeRef"]["name"] in overlay.names("TrainingRuntime")
    assert not overlay.of("Job"), "two trainers would write to one run directory"


def test_the_job_counts_its_nodes_the_same_everywhere() -> None:
    job = rendered("overlays/training").workload("Job/trainer")
    environment = {variable["name"]: variable.get("value") for variable in job.containers[0]["env"]}
    assert environment["PET_NNODES"] == str(job.manifest["spec"]["completions"])
    assert job.manifest["spec"]["completions"] == job.manifest["spec"]["parallelism"]
    assert environment["PET_NPROC_PER_NODE"] == str(job.containers[0]["resources"]["limits"]["nvidia.com/gpu"])
    assert environment["PET_MASTER_ADDR"] == f"{job.manifest['metadata']['name']}-0.{job.pod['subdomain']}"
    assert environment["PET_MASTER_PORT"] == str(job.ports()["rendezvous"])


def test_what_serves_may_be_disrupted_one_by_one(overlay: Overlay) -> None:
    budgets = overlay.of("PodDisruptionBudget")
    for name in ("Deployment/api", "Deployment/light-worker", "Deployment/code-worker"):
        assert [b for b in budgets if selects(b["spec"]["selector"], overlay.workload(name).labels)], name


def test_a_redis_of_ones_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The component beside the base: nothing of our Redis is left, and everybody is told of the other."""
    folder = tmp_path_factory.mktemp("overlay")
    k8s = os.path.relpath(ROOT / "k8s", folder)
    (folder / "kustomization.yaml").write_text(
        f"resources: [{k8s}/base]\ncomponents: [{k8s}/components/external-redis]\n"
    )
    overlay = rendered(os.path.relpath(folder, ROOT / "k8s"))
    assert not [m for m in overlay.objects if m["metadata"]["name"].startswith("redis")]
    for version in VERSIONS:
        for manifest in overlay.objects:
            kubernetes_validate.validate(manifest, version, strict=True)
    for name, role in (("api", "api"), ("light-worker", "light"), ("code-worker", "code")):
        (container,) = overlay.workload(f"Deployment/{name}").containers
        urls = [v["value"] for v in container["env"] if v["name"] == "VERIFIER_REDIS_URL"]
        assert urls == [f"rediss://{role}@redis.example.org:6379/0"]
        egress = [
            rule for p in overlay.policies_on(overlay.workload(f"Deployment/{name}")) for rule in p.get("egress", [])
        ]
        assert [rule["ports"][0]["port"] for rule in egress] == [6379, 53]


# One truth.


def test_images_are_named_once(overlay: Overlay, compose: dict[str, Any]) -> None:
    used = {container["image"] for _, container in overlay.containers()}
    assert len({image.rpartition(":")[0] for image in used}) == len(used)
    assert used <= {service["image"] for service in compose["services"].values()}
    for path in (ROOT / "k8s").rglob("*.yaml"):
        if path.name != "kustomization.yaml":
            assert not re.search(r"image: \S+[:/]", path.read_text()), path


def test_redis_is_configured_as_in_compose() -> None:
    assert (ROOT / "k8s/base/redis.conf").read_text() == (ROOT / "docker/redis/redis.conf").read_text()


def test_both_trainings_are_the_same_but_for_their_controller() -> None:
    job = rendered("overlays/training").workload("Job/trainer")
    runtime = rendered("overlays/training-kubeflow").workload("TrainingRuntime/trainer")
    same = ("image", "command", "args", "envFrom", "resources", "securityContext", "volumeMounts")
    assert [job.containers[0][key] for key in same] == [runtime.containers[0][key] for key in same]
    same = ("securityContext", "serviceAccountName", "volumes", "tolerations")
    assert [job.pod[key] for key in same] == [runtime.pod[key] for key in same]
