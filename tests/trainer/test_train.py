"""The loop: what it does with rewards that fail, metrics that leave their band, and a run that is over."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainer.tiny import FakeService, by_chance, metrics_of, run_config, train_quietly
from trainer.checkpoint import Checkpoints, weights_hash
from trainer.errors import CheckpointError, ConfigError, GuardError
from trainer.ledger import read_ledger
from trainer.metrics import STEP_FIELDS
from verifier_service.client import ServiceError
from verifier_service.schemas import Item, ScoreResponse


def policy_hash(run_dir: Path, step: int) -> str:
    return weights_hash(run_dir / "checkpoints" / f"step-{step:06d}" / "policy")


class Failing(FakeService):
    """Cannot be reached while it judges the given steps."""

    def __init__(self, *steps: int) -> None:
        super().__init__(by_chance)
        self.steps = steps

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        if int(request_id.split("-")[-3]) in self.steps:
            raise ServiceError("down")
        return super().score(items, deadline_s=deadline_s, request_id=request_id)


def test_every_step_has_its_line_and_its_rollouts(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(set(STEP_FIELDS) <= set(line) for line in lines)
    assert all(line["domains"]["words"]["num_completions"] == line["num_completions"] for line in lines)
    assert len(list((tmp_path / "rollouts").iterdir())) == 4


def test_a_step_of_unknown_rewards_passes_and_the_run_goes_on(tmp_path: Path) -> None:
    service = Failing(2)
    train_quietly(run_config(tmp_path, checkpoint__every_steps=1, checkpoint__keep=5), service=service)
    lines = metrics_of(tmp_path)
    assert [line["reward_error_frac"] for line in lines] == [0, 1, 0, 0]
    assert [line["num_updates"] for line in lines] == [2, 0, 2, 2]
    assert lines[1]["reward_mean"] is None
    assert policy_hash(tmp_path, 1) == policy_hash(tmp_path, 2) != policy_hash(tmp_path, 3)


def test_one_unknown_in_a_group_leaves_the_others_to_train_on(tmp_path: Path) -> None:
    def judge(item: Item, completion: str) -> float | None:
        return None if completion == item.completions[0] else by_chance(item, completion)

    train_quietly(run_config(tmp_path, reward__max_error_frac=0.6), judge)
    lines = metrics_of(tmp_path)
    assert all(0.2 < line["reward_error_frac"] < 0.6 for line in lines)
    assert all(line["num_updates"] for line in lines)


def test_a_service_that_is_away_is_not_asked_round_after_round(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path), service=Failing(1, 2, 3, 4))
    assert [line["num_rounds"] for line in metrics_of(tmp_path)] == [1, 1, 1, 1]


def test_starvation_ends_no_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, filter__max_rounds=2, num_steps=2), lambda item, completion: 0.0)
    lines = metrics_of(tmp_path)
    assert [(line["num_rounds"], line["num_updates"], line["fill_frac"]) for line in lines] == [(2, 0, 0.0)] * 2


def test_a_guard_stops_the_run_with_one_line(tmp_path: Path) -> None:
    guard = {"entropy": {"min": 100.0}, "patience_steps": 2}
    with pytest.raises(GuardError, match=r"step 2: entropy = .* outside \[100, inf\] for 2 steps"):
        train_quietly(run_config(tmp_path, guard=guard))


def test_a_guard_rolls_back_and_the_run_walks_another_way(tmp_path: Path) -> None:
    """Steps 3 and 4 lose their rewards once; the guard goes back to step 2, and the service is well again."""
    service = Failing(3, 4)
    score, attempts = service.score, []

    def recovering(items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        attempts.append((request_id.split("-")[-3], items[0].completions))
        if read_ledger(tmp_path)[-1].event == "rollback":
            service.steps = ()
        return score(items, deadline_s=deadline_s, request_id=request_id)

    service.score = recovering  # type: ignore[method-assign]
    guard = {"reward_error_frac": {"max": 0.1}, "patience_steps": 2, "action": "rollback"}
    run = train_quietly(run_config(tmp_path, guard=guard, num_steps=5), service=service)

    assert [(e.event, e.step) for e in read_ledger(tmp_path)] == [("start", 0), ("rollback", 2), ("finish", 5)]
    assert [line["step"] for line in metrics_of(tmp_path)] == [1, 2, 3, 4, 5]
    assert not any(line["reward_error_frac"] for line in metrics_of(tmp_path))
    assert run.state.guards.num_rollbacks == 1
    third = [completions for step, completions in attempts if step == "3"]
    assert third[0] not in third[1:], "the same prompts, other samples"


def test_a_finished_run_is_left_alone_and_can_be_prolonged(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    before = policy_hash(tmp_path, 2)
    train_quietly(run_config(tmp_path, num_steps=2))
    assert policy_hash(tmp_path, 2) == before
    train_quietly(run_config(tmp_path, num_steps=3))
    events = [(e.event, e.step, dict(e.changes)) for e in read_ledger(tmp_path)]
    assert events[1:] == [
        ("finish", 2, {}),
        ("resume", 2, {}),
        ("resume", 2, {"num_steps": 3}),
        ("finish", 3, {}),
    ]


@pytest.mark.parametrize("change", [{"seed": 1}, {"model__demo": {"seed": 1}}, {"sampling__temperature": 1.0}])
def test_what_makes_another_run_needs_another_folder(tmp_path: Path, change: dict[str, object]) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    with pytest.raises(ConfigError, match="was started with another"):
        train_quietly(run_config(tmp_path, num_steps=3, **change))


def test_a_resumed_optimizer_obeys_the_config(tmp_path: Path) -> None:
    """Its state comes from the checkpoint, its settings do not."""
    train_quietly(run_config(tmp_path, num_steps=2))
    run = train_quietly(run_config(tmp_path, num_steps=3, optimizer__weight_decay=0.25, optimizer__beta2=0.5))
    [group] = run.optimizer.param_groups
    assert (group["weight_decay"], group["betas"]) == (0.25, (0.9, 0.5))
    assert {int(state["step"]) for state in run.optimizer.state.values()} == {6}


def test_other_data_does_not_continue_the_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    path = tmp_path / "prompts" / "training" / "words.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))
    with pytest.raises(CheckpointError, match="the data is not that of the run"):
        train_quietly(run_config(tmp_path, num_steps=3))


def test_a_reference_put_in_place_by_someone_else_does_not_continue_the_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    other = Checkpoints(tmp_path, 2).load(2).policy_folder / "model.safetensors"
    (tmp_path / "eras" / "era-0" / "model.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="not the reference"):
        train_quietly(run_config(tmp_path, num_steps=3))


def test_another_verifier_version_is_an_event(tmp_path: Path) -> None:
    service = FakeService(by_chance)
    score = service.score

    def newer(items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        response = score(items, deadline_s=deadline_s, request_id=request_id)
        if int(request_id.split("-")[-3]) < 3:
            return response
        verdicts = [v.model_copy(update={"verifier_version": "2"}) for v in response.items[0].verdicts]
        return ScoreResponse(items=[response.items[0].model_copy(update={"verdicts": verdicts})])

    service.score = newer  # type: ignore[method-assign]
    train_quietly(run_config(tmp_path), service=service)
    [event] = [e for e in read_ledger(tmp_path) if e.event == "stage"]
    assert (event.step, event.cause, event.changes) == (
        2,
        "another verifier version",
        {"verifier_versions": {"logic": "2"}},
    )
