"""What pods may do, and whom they may reach."""

from typing import Any

import pytest

from tests.deploy.manifests import Overlay, Workload, selects


def test_restricted_pod_security(overlay: Overlay) -> None:
    """The rules of the `restricted` profile, which the namespace enforces."""
    (namespace,) = overlay.of("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    volumes = {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}
    for workload in overlay.workloads():
        security = workload.pod["securityContext"]
        assert security["runAsNonRoot"] is True, workload.name
        assert security["runAsUser"] > 0, workload.name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, workload.name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(workload.pod), workload.name
        assert all(set(volume) - {"name"} <= volumes for volume in workload.pod.get("volumes", [])), workload.name
    for workload, container in overlay.containers():
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, workload.name
        assert security["readOnlyRootFilesystem"] is True, workload.name
        assert security["capabilities"] == {"drop": ["ALL"]}, workload.name


def test_service_accounts_exist_and_carry_no_token(overlay: Overlay) -> None:
    accounts = {account["metadata"]["name"]: account for account in overlay.of("ServiceAccount")}
    for workload in overlay.workloads():
        assert accounts[workload.pod["serviceAccountName"]]["automountServiceAccountToken"] is False
        assert workload.pod["automountServiceAccountToken"] is False


def test_memory_volumes_are_sized(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        for volume in workload.pod.get("volumes", []):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), workload.name


def test_requests_and_limits(overlay: Overlay) -> None:
    for workload, container in overlay.containers():
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), workload.name
        assert "memory" in container["resources"]["limits"], workload.name


def test_probes(overlay: Overlay) -> None:
    for workload, container in overlay.containers():
        if workload.serves:
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), workload.name
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(kind, {}).get("httpGet", {}).get("port")
            assert port is None or port in workload.ports(), workload.name


# Network.


def test_everything_is_denied_first(overlay: Overlay) -> None:
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert deny in [policy["spec"] for policy in overlay.of("NetworkPolicy")]


def test_every_pod_has_a_policy_of_its_own_and_every_policy_a_pod(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        assert [p for p in overlay.policies_on(workload) if p["podSelector"]], workload.name
    for policy in overlay.of("NetworkPolicy"):
        assert overlay.matching(policy["spec"]["podSelector"]), policy["metadata"]["name"]


def test_policies_open_ports_that_the_pods_have(overlay: Overlay) -> None:
    for workload in overlay.workloads():
        for policy in overlay.policies_on(workload):
            for rule in policy.get("ingress", []):
                named = {port["port"] for port in rule.get("ports", []) if "endPort" not in port}
                assert named <= set(workload.ports().values()), workload.name


@pytest.mark.parametrize("name", ["Deployment/code-worker", "Deployment/light-worker"])
def test_workers_reach_redis_and_nothing_else(overlay: Overlay, name: str) -> None:
    policies = overlay.policies_on(overlay.workload(name))
    assert not [rule for policy in policies for rule in policy.get("ingress", [])]
    egress = [rule for policy in policies for rule in policy.get("egress", [])]
    assert egress == [
        {
            "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/component": "redis"}}}],
            "ports": [{"protocol": "TCP", "port": 6379}],
        }
    ]


def test_who_may_connect_is_let_in(overlay: Overlay) -> None:
    """An egress rule to pods of ours has its ingress rule at the other end."""
    for workload in overlay.workloads():
        for rule in [rule for policy in overlay.policies_on(workload) for rule in policy.get("egress", [])]:
            for peer in rule.get("to", []):
                if set(peer) != {"podSelector"}:
                    continue
                for target in overlay.matching(peer["podSelector"]):
                    assert admits(overlay, target, workload, rule.get("ports")), (workload.name, target.name)


def admits(overlay: Overlay, target: Workload, source: Workload, ports: list[dict[str, Any]] | None) -> bool:
    """Whether `target` lets `source` in on these ports; None stands for all, in a rule as in the question."""
    opened = [
        rule.get("ports")
        for policy in overlay.policies_on(target)
        for rule in policy.get("ingress", [])
        for peer in rule["from"]
        if "podSelector" in peer and selects(peer["podSelector"], source.labels)
    ]
    return None in opened or (ports is not None and all(any(port in rule for rule in opened) for port in ports))
