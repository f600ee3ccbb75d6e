"""The deployment beside the embedded service: the same verdicts, and at least 0.8 of its throughput."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.deploy.compose_project import EXAMPLES, Compose, asked_for, say, score, weighed_like_a_container
from tests.deploy.manifests import ROOT
from tests.verifier_service.service_process import ServiceProcess, running_service

pytestmark = asked_for


def judged(verdicts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must be equal wherever a completion is graded."""
    return [(v["verifier"], v["outcome"], v["reward"], v["reason"], v["extracted"]) for v in verdicts]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with running_service(tmp_path_factory.mktemp("embedded"), ROOT, workers=2) as service:
        yield service


def test_verdicts_are_those_of_the_embedded_service(deployment: Compose, embedded: ServiceProcess) -> None:
    in_containers, here = score(deployment.url, EXAMPLES), score(embedded.url, EXAMPLES)
    assert len(here) == sum(len(item["completions"]) for item in EXAMPLES)
    assert judged(in_containers) == judged(here)
    assert not [verdict for verdict in here if verdict["outcome"] == "error"]


@pytest.mark.parametrize("kind", ["code", "math"])
def test_throughput_is_that_of_the_embedded_service(deployment: Compose, embedded: ServiceProcess, kind: str) -> None:
    """Rounds in turn, so that the machine's mood is the same for both, until their median is clear; answers are new in
    each. Other work on the machine weighs on both alike, but makes rounds so uneven that a bad median says nothing."""
    busy = psutil.cpu_percent(3.0) / 100 * (psutil.cpu_count() or 1)
    urls = [deployment.url, embedded.url]
    ratios: list[float] = []
    began = time.monotonic()
    with weighed_like_a_container([process.pid for process in embedded.family()]):
        for turn in range(24):
            in_turn = urls if turn % 2 else urls[::-1]
            rates = {url: rate(url, kind, f"{turn} {number}") for number, url in enumerate(in_turn)}
            if turn > 0:  # the first warms up
                ratios.append(rates[deployment.url] / rates[embedded.url])
            if len(ratios) >= 7 and (statistics.median(ratios) >= 0.8 or time.monotonic() - began > 120):
                break
    median = statistics.median(ratios)
    last = f"{rates[deployment.url]:.0f} and {rates[embedded.url]:.0f} completions/s in the last"
    rounds = f"median of {len(ratios)} rounds from {min(ratios):.2f} to {max(ratios):.2f}, {last}"
    say(f"{kind}: {median:.2f} of the embedded service; {rounds}; {busy:.1f} cores used by others before")
    if median < 0.8 and busy > 0.3:
        pytest.skip(f"{busy:.1f} cores are busy with other work, so a ratio of {median:.2f} says nothing")
    assert median >= 0.8


SIZES = {"code": 600, "math": 4000}
"""Completions a round: half a second or more."""


def rate(url: str, kind: str, salt: str) -> float:
    """Completions a second of short, right answers."""
    items = [
        {
            "code": {
                "task": {"kind": "code", "tests": [{"stdin": "", "stdout": f"{salt} {number}"}]},
                "completions": [f"```python\nprint('{salt}', {number})\n```"],
            },
            "math": {
                "task": {"kind": "math", "ground_truth": f"\\frac{{{number}}}{{7}}"},
                "completions": [f"By {salt}, \\boxed{{{number}/7}}"],
            },
        }[kind]
        for number in range(SIZES[kind])
    ]
    started = time.monotonic()
    verdicts = score(url, items)
    assert all(verdict["reward"] == 1.0 for verdict in verdicts)
    return len(items) / (time.monotonic() - started)
