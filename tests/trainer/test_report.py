"""The report: one file alone, curves, resets, rollouts that cannot break the page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from trainer.curves import CHARTS, smoothed
from trainer.errors import ConfigError
from trainer.ledger import LedgerEvent, append
from trainer.metrics import STEP_FIELDS
from trainer.report import evenly, history_of, sample_rollouts, write_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & $title \u2028 😀"


def record(step: int, era: int = 0, **more: Any) -> dict[str, Any]:
    return dict.fromkeys(STEP_FIELDS, 0.1) | {"step": step, "era": era} | more


def validation(score: float) -> dict[str, Any]:
    sets = {"spell": {"mean": score, "standard_error": 0.03, "pass_at": {"1": score, "4": score}}}
    return {"score": score, "error": 0.02, "sets": sets}


def rollout(text: str, reward: float | None) -> dict[str, Any]:
    outcome = "error" if reward is None else "correct"
    facts = {"num_tokens": 9, "truncated": False, "reason": "why", "extracted": None, "outcome": outcome}
    return {"completion": text, "reward": reward, "shaped_reward": reward, **facts}


def write_rollouts(run_dir: Path, step: int, text: str, num_groups: int = 1) -> None:
    messages = [{"role": "user", "content": text}]
    group = {"step": step, "index": 0, "prompt_id": "p", "domain": "logic", "messages": messages}
    line = json.dumps(group | {"rollouts": [rollout(text, 1.0), rollout("plain", None)]}) + "\n"
    (run_dir / "rollouts").mkdir(exist_ok=True)
    (run_dir / "rollouts" / f"step-{step:06d}.jsonl").write_text(line * num_groups)


def write_run(run_dir: Path) -> None:
    versions = {"math": "3"}
    append(
        run_dir,
        LedgerEvent(event="start", step=0, era=0, cause="new", validation={"blend": 0.2}, verifier_versions=versions),
    )
    append(run_dir, LedgerEvent(event="reset", step=2, era=1, cause="kl_ceiling", validation={"blend": 0.4}))
    domains = {"math": {"reward_mean": 0.3}, "code": {"reward_mean": None}}
    records = [record(1, domains=domains), record(2, validation=validation(0.4)), record(3, 1), record(4, 1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write_rollouts(run_dir, 4, HOSTILE)


class Page(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    write_run(run_dir)
    write_report(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def report(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text()


def test_alone_in_one_file(report: str) -> None:
    page = Page()
    page.feed(report)
    sources = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert sources
    assert all(source is not None and source.startswith("data:image/png;base64,") for source in sources)
    assert "@import" not in report
    assert "url(" not in report


def test_completions_cannot_become_markup(report: str) -> None:
    page = Page()
    page.feed(report)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]


def test_completions_arrive_unchanged(report: str) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', report, re.DOTALL)
    assert found
    (group,) = json.loads(found[1])
    assert group["rollouts"][0]["completion"] == HOSTILE
    assert group["rollouts"][1]["reward"] is None


def test_eras_causes_and_scores_are_named(report: str) -> None:
    assert "<td>1</td><td>2</td><td>kl_ceiling</td><td>0.400 → –</td>" in report
    assert "verifiers math 3" in report
    assert "0.400 ± 0.020" in report


def test_every_picture_is_a_file_too(run_dir: Path) -> None:
    files = {path.stem: path.read_bytes() for path in (run_dir / "curves").iterdir()}
    assert set(files) == {chart.name for chart in CHARTS}
    assert all(png.startswith(b"\x89PNG") for png in files.values())


def test_a_run_of_one_bare_step_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(record(1, reward_mean=None)) + "\n")
    assert "This run has written no rollouts." in write_report(tmp_path).read_text()
    drawn = {path.stem for path in (tmp_path / "curves").iterdir()}
    assert drawn == {chart.name for chart in CHARTS} - {"pass_at_k", "domains"}


def test_a_run_without_steps_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl with at least one step"):
        write_report(tmp_path)


def test_history_by_hand(tmp_path: Path) -> None:
    events = [
        LedgerEvent(event="start", step=0, era=0, cause="new", validation={"blend": 0.2, "blend_error": 0.01}),
    ]
    history = history_of([record(1), record(2, validation=validation(0.4)), record(3, 1)], events, None)
    assert history.validations == [(0, 0.2, 0.01), (2, 0.4, 0.02)]
    assert history.era_starts == [(3, 1, "reset")]
    assert history.eras() == [slice(0, 2), slice(2, 3)]


def test_smoothing_by_hand() -> None:
    assert smoothed([1.0, 2.0, 6.0, float("nan")], 1) == [1.5, 3.0, 4.0, 6.0]
    assert smoothed([1.0, 2.0], 0) == [1.0, 2.0]


def test_the_sample_is_even_and_bounded(tmp_path: Path) -> None:
    assert evenly(range(100), 4) == [0, 33, 66, 99]
    assert evenly([1, 2], 4) == [1, 2]
    for step in range(1, 31):
        write_rollouts(tmp_path, step, "x" * 7000, num_groups=9)
    groups, note = sample_rollouts(tmp_path)
    steps = sorted({group["step"] for group in groups})
    assert (len(groups), steps[0], steps[-1], len(steps)) == (72, 1, 30, 12)
    assert groups[0]["rollouts"][0]["completion"] == "x" * 6000 + " … (1000 characters more)"
    assert note == "A sample: 72 prompts from 12 of 30 steps on file, with their verdicts."
