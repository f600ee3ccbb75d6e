"""A rendered overlay, and the questions that tests ask of it."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = (
    "base",
    "overlays/kind",
    "overlays/production",
    "overlays/gvisor",
    "overlays/training",
    "overlays/training-kubeflow",
)

Manifest = dict[str, Any]


@functools.cache
def rendered(overlay: str) -> "Overlay":
    """The objects of k8s/<overlay>. Where nothing renders them the test is skipped, in CI it fails."""
    tool = next((t for t in (["kubectl", "kustomize"], ["kustomize", "build"]) if shutil.which(t[0])), None)
    if tool is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("neither kubectl nor kustomize is installed")
    done = subprocess.run([*tool, str(ROOT / "k8s" / overlay)], capture_output=True, text=True, check=True)
    return Overlay(overlay, tuple(yaml.safe_load_all(done.stdout)))


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet, Job or the like: what makes pods from a template."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return f"{self.manifest['kind']}/{self.manifest['metadata']['name']}"

    @property
    def template(self) -> Manifest:
        template: Manifest = self.manifest["spec"]["template"]
        if self.manifest["kind"] == "TrainingRuntime":
            (job,) = template["spec"]["replicatedJobs"]
            template = job["template"]["spec"]["template"]
        return template

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> Manifest:
        pod: Manifest = self.template["spec"]
        return pod

    @property
    def containers(self) -> list[Manifest]:
        return [*self.pod["containers"], *self.pod.get("initContainers", [])]

    @property
    def serves(self) -> bool:
        """Runs for ever, unlike a Job."""
        return self.manifest["kind"] in ("Deployment", "StatefulSet")

    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", [])}

    def references(self, kind: str) -> Iterator[tuple[str, str | None]]:
        """ConfigMaps (`configMap`) or Secrets (`secret`) that the pod needs: name, and the key where one is named."""
        field = {"configMap": "name", "secret": "secretName"}[kind]
        for volume in self.pod.get("volumes", []):
            if kind in volume:
                yield volume[kind][field], None
        for container in self.containers:
            for source in container.get("envFrom", []):
                if f"{kind}Ref" in source:
                    yield source[f"{kind}Ref"]["name"], None
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get(f"{kind}KeyRef")
                if reference:
                    yield reference["name"], reference["key"]


@dataclass(frozen=True)
class Overlay:
    name: str
    objects: tuple[Manifest, ...]

    def of(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.objects if manifest["kind"] in kinds]

    def names(self, kind: str) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in self.of(kind)}

    def workloads(self) -> list[Workload]:
        return [Workload(manifest) for manifest in self.of("Deployment", "StatefulSet", "Job", "TrainingRuntime")]

    def workload(self, name: str) -> Workload:
        return next(workload for workload in self.workloads() if workload.name == name)

    def matching(self, selector: Manifest) -> list[Workload]:
        return [workload for workload in self.workloads() if selects(selector, workload.labels)]

    def policies_on(self, workload: Workload) -> list[Manifest]:
        policies = [policy["spec"] for policy in self.of("NetworkPolicy")]
        return [policy for policy in policies if selects(policy["podSelector"], workload.labels)]

    def containers(self) -> list[tuple[Workload, Manifest]]:
        return [(workload, container) for workload in self.workloads() for container in workload.containers]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Kubernetes' label selector, the operators that are used here; an empty one selects everything."""
    unknown = set(selector) - {"matchLabels", "matchExpressions"}
    assert not unknown, unknown
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def secrets() -> dict[str, set[str]]:
    """What k8s/secrets.sh makes: name -> keys."""
    done = subprocess.run([ROOT / "k8s/secrets.sh"], capture_output=True, text=True, check=True)
    return {secret["metadata"]["name"]: set(secret["data"]) for secret in yaml.safe_load_all(done.stdout)}


def environment(manifest: Manifest) -> set[str]:
    """Every VERIFIER_* name that appears anywhere in an object."""
    return set(re.findall(r"\bVERIFIER_[A-Z_]+\b", yaml.safe_dump(manifest)))
