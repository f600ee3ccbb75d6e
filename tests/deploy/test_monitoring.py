"""Prometheus, its alerts and the dashboard: they ask for metrics that exist, and the alerts fire when they should."""

import json
import re
import shutil
import subprocess
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.manifests import ROOT, rendered

PROMETHEUS = ROOT / "docker/prometheus"
DASHBOARD = ROOT / "docker/grafana/dashboards/service.json"


def alerts() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    return loaded


def exported() -> set[str]:
    """Names that verifier_service/metrics.py registers, with what a histogram adds."""
    source = (ROOT / "verifier_service/metrics.py").read_text()
    found = set(re.findall(r'"(verifier_[a-z_]+)"', source))
    return found | {f"{name}_{suffix}" for name in found for suffix in ("bucket", "sum", "count")}


def asked_for(text: str) -> set[str]:
    return set(re.findall(r"\bverifier_[a-z_]+\b", text))


def test_alerts_ask_for_metrics_that_exist() -> None:
    assert asked_for((PROMETHEUS / "alerts.yml").read_text()) <= exported()
    assert asked_for((PROMETHEUS / "alerts_test.yml").read_text()) <= exported()


def test_the_dashboard_asks_for_metrics_that_exist_and_shows_them_all() -> None:
    assert asked_for(DASHBOARD.read_text()) <= exported()
    shown = asked_for(" ".join(t["expr"] for p in json.loads(DASHBOARD.read_text())["panels"] for t in p["targets"]))
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    registered = {name for name in exported() if not re.search(r"_(bucket|sum|count)$", name)}
    assert bases == registered


def test_those_metrics_are_served(http: httpx.Client) -> None:
    served = set(re.findall(r"^# TYPE (\w+)", http.get("/metrics").text, re.M))
    registered = {name for name in exported() if not re.search(r"_(bucket|sum|count)$", name)}
    assert registered <= served


def test_scalers_ask_for_metrics_that_exist() -> None:
    triggers = [t for s in rendered("overlays/production").of("ScaledObject") for t in s["spec"]["triggers"]]
    assert asked_for(" ".join(trigger["metadata"]["query"] for trigger in triggers)) <= exported()


def test_the_operators_alerts_are_the_same() -> None:
    (rule,) = rendered("overlays/production").of("PrometheusRule")
    assert rule["spec"] == alerts()


def test_every_alert_has_its_paragraph_in_the_operations_guide() -> None:
    guide = (ROOT / "docs/operations.md").read_text()
    names = [rule["alert"] for group in alerts()["groups"] for rule in group["rules"]]
    assert [name for name in names if f"**{name}**" not in guide] == []


def test_every_alert_is_tested() -> None:
    tested = {
        t["alertname"]
        for s in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
        for t in s["alert_rule_test"]
        if t.get("exp_alerts")
    }
    assert tested == {rule["alert"] for group in alerts()["groups"] for rule in group["rules"]}


def test_datasource_of_the_dashboard_is_provisioned() -> None:
    provisioned = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        assert {panel["datasource"]["uid"]} | {target["datasource"]["uid"] for target in panel["targets"]} <= uids


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "check",
    [
        ("test", "rules", "alerts_test.yml"),
        ("check", "rules", "alerts.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
    ids=["alerts fire when they should", "alerts", "config"],
)
def test_prometheus_own_tool(check: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *check], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
