"""The loop: what it does with rewards that fail, metrics that leave their band, and a run that is over."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.trainer.tiny import FakeService, Judge, by_chance, metrics_of, run_config, train_quietly
from trainer.checkpoint import Checkpoints, weights_hash
from trainer.errors import CheckpointError, ConfigError, GuardError
from trainer.files import alone_in
from trainer.ledger import read_ledger
from trainer.metrics import STEP_FIELDS
from trainer.prompts import PromptSource
from trainer.run_config import load_config
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
    assert [line["num_groups"] for line in metrics_of(tmp_path)] == [4, 4, 4, 4]


def test_starvation_ends_no_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, filter__max_rounds=2, num_steps=2), lambda item, completion: 0.0)
    lines = metrics_of(tmp_path)
    assert [(line["num_groups"], line["num_updates"], line["fill_frac"]) for line in lines] == [(8, 0, 0.0)] * 2


def test_a_guard_stops_the_run_with_one_line(tmp_path: Path) -> None:
    guard = {"entropy": {"min": 100.0}, "patience_steps": 2}
    with pytest.raises(GuardError, match=r"step 2: entropy = .* outside \[100, inf\] for 2 steps"):
        train_quietly(run_config(tmp_path, guard=guard))


def test_without_a_kl_term_no_guard_misses_the_kl(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, loss__kl_coef=0.0, guard={"patience_steps": 2}))
    assert [line["kl_ref"] for line in metrics_of(tmp_path)] == [None] * 4


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


def test_a_stage_may_change_the_temperature(tmp_path: Path) -> None:
    """Rollouts and log-probabilities follow alike, else the two would disagree; and so does a resumed run."""
    stages = [{"name": "cool", "from_step": 2, "set": {"sampling.temperature": 0.1}}]
    train_quietly(run_config(tmp_path, stages=stages, num_steps=2))
    train_quietly(run_config(tmp_path, stages=stages, num_steps=3))
    lines = metrics_of(tmp_path)
    assert all(line["logprob_mismatch_kl"] < 1e-6 for line in lines)
    assert lines[1]["entropy"] < lines[0]["entropy"] / 2


def test_nothing_is_carried_to_another_temperature(tmp_path: Path) -> None:
    stages = [{"name": "cool", "from_step": 3, "set": {"sampling.temperature": 0.5}}]
    train_quietly(run_config(tmp_path, stages=stages, filter__oversample=2.0, guard__logprob_mismatch_kl={}))
    carried = [line["num_carried"] for line in metrics_of(tmp_path)]
    assert carried[1] > 0, "otherwise this shows nothing"
    assert carried[2] == 0


def test_a_resumed_run_carries_nothing_to_another_temperature(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2, filter__oversample=2.0))
    other = {"sampling__temperature": 0.5, "guard__logprob_mismatch_kl": {}}
    run = train_quietly(run_config(tmp_path, num_steps=3, filter__oversample=2.0, **other))
    assert len(run.checkpoints.load(2).state.carry) > 0, "otherwise this shows nothing"
    assert metrics_of(tmp_path)[2]["num_carried"] == 0


def test_a_default_written_out_makes_no_other_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    train_quietly(run_config(tmp_path, num_steps=3, seed=0, model__dtype="float32"))
    [resume] = [e for e in read_ledger(tmp_path) if e.event == "resume"]
    assert resume.changes == {"num_steps": 3}


def test_the_config_kept_makes_the_same_run_again(tmp_path: Path) -> None:
    stages = [{"name": "cool", "from_step": 2, "set": {"sampling.temperature": 0.5}}]
    train_quietly(run_config(tmp_path / "first", stages=stages, num_steps=2))
    kept = load_config(tmp_path / "first" / "config.toml", [f"run_dir={tmp_path / 'second'}"])
    train_quietly(kept)
    assert metrics_of(tmp_path / "second") == metrics_of(tmp_path / "first")


def test_two_trainers_never_work_in_one_folder(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=1))
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with alone_in(tmp_path), pytest.raises(ConfigError, match="another trainer is at work in it"):
        train_quietly(run_config(tmp_path, num_steps=2))
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    train_quietly(run_config(tmp_path, num_steps=2))


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
    assert [e.cause for e in read_ledger(tmp_path) if e.event == "resume"] == ["again", "prolonged"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"model__demo": {"seed": 1}}])
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


def test_a_config_that_could_not_be_opened_binds_nobody(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        train_quietly(run_config(tmp_path, model={"path": str(tmp_path / "nowhere")}))
    train_quietly(run_config(tmp_path, num_steps=1))


def test_a_change_that_could_not_be_opened_still_comes_into_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    other = {"num_steps": 3, "loss__kl_coef": 0.5}
    monkeypatch.setattr("trainer.run.check_fingerprint", refuse)
    with pytest.raises(CheckpointError):
        train_quietly(run_config(tmp_path, **other))
    monkeypatch.undo()
    train_quietly(run_config(tmp_path, **other))
    [resume] = [e for e in read_ledger(tmp_path) if e.event == "resume"]
    assert resume.changes == {"num_steps": 3, "loss.kl_coef": 0.5}


def refuse(*_: object) -> None:
    raise CheckpointError("no")


def test_a_data_cursor_that_moved_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a state that was written, or is read, wrongly."""
    train_quietly(run_config(tmp_path, num_steps=2))
    true = PromptSource.upcoming
    monkeypatch.setattr(PromptSource, "upcoming", lambda self, count: true(self, count + 1)[1:])
    with pytest.raises(CheckpointError, match="does not go on with the prompts that came next"):
        train_quietly(run_config(tmp_path, num_steps=3))


def test_a_run_that_lost_its_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="has metrics but no checkpoint"):
        train_quietly(run_config(tmp_path, num_steps=3))
    assert len(metrics_of(tmp_path)) == 2


def test_another_seed_of_the_data_does_not_continue_the_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    other = {"sources": [{"name": "words", "dataset": "spell_backward", "seed": 2, "count": 60}]}
    with pytest.raises(CheckpointError, match="the data is not that of the run"):
        train_quietly(run_config(tmp_path, num_steps=3, data=other))


def test_a_prompt_that_comes_again_in_a_step_gives_other_completions(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def judge(item: Item, completion: str) -> float:
        asked.append((str(item.id), *item.completions))
        return by_chance(item, completion)

    few = {"sources": [{"name": "words", "dataset": "spell_backward", "seed": 1, "count": 1}]}
    train_quietly(run_config(tmp_path, num_steps=1, data=few, filter={"dynamic_sampling": False}), judge)
    assert {words[0] for words in asked} == {"training/words/0"}
    assert len(set(asked)) == 4, "as many as groups"


def test_other_data_does_not_continue_the_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    [path] = (tmp_path / "prompts" / "training").iterdir()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::-1]))
    with pytest.raises(CheckpointError, match="the data is not that of the run"):
        train_quietly(run_config(tmp_path, num_steps=3))


def test_a_reference_put_in_place_by_someone_else_does_not_continue_the_run(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=2))
    other = Checkpoints(tmp_path, 2).load(2).policy_folder / "model.safetensors"
    (tmp_path / "eras" / "era-0" / "model.safetensors").write_bytes(other.read_bytes())
    with pytest.raises(CheckpointError, match="not the reference"):
        train_quietly(run_config(tmp_path, num_steps=3))


VALIDATION = {
    "sources": [{"name": "held", "dataset": "spell_backward", "seed": 2, "count": 6}],
    "every_steps": 2,
    "num_samples": 2,
}


class Newer(FakeService):
    """Has another version from the first request on whose name passes `is_newer`."""

    def __init__(self, is_newer: Callable[[Item, int], bool], judge: Judge = by_chance) -> None:
        super().__init__(judge)
        self.is_newer = is_newer
        self.version = "1"

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        [scored] = super().score(items, deadline_s=deadline_s, request_id=request_id).items
        if self.is_newer(items[0], int(request_id.split("-")[-3])):
            self.version = "2"
        verdicts = [v.model_copy(update={"verifier_version": self.version}) for v in scored.verdicts]
        return ScoreResponse(items=[scored.model_copy(update={"verdicts": verdicts})])


@pytest.mark.parametrize(
    ("is_newer", "step"),
    [
        (lambda item, step: step == 3, 2),
        (lambda item, step: step == 2 and item.id.startswith("validation"), 2),
    ],
    ids=["in training", "in validation"],
)
def test_another_verifier_version_is_an_event(tmp_path: Path, is_newer: Callable[[Item, int], bool], step: int) -> None:
    train_quietly(run_config(tmp_path, validation=VALIDATION), service=Newer(is_newer))
    [event] = [e for e in read_ledger(tmp_path) if e.event == "stage"]
    assert (event.step, event.cause) == (step, "another verifier version")
    assert event.changes == {"verifier_versions": {"logic": "2"}}


def test_a_validation_of_mostly_unknown_rewards_counts_nowhere(tmp_path: Path) -> None:
    def judge(item: Item, completion: str) -> float | None:
        held = str(item.id).startswith("validation")
        return by_chance(item, completion) if not held or str(item.id).endswith("/0") else None

    run = train_quietly(run_config(tmp_path, num_steps=2, validation=VALIDATION), judge)
    assert (run.state.best, run.state.validation, run.state.triggers.validations) == (None, None, ())
    assert not any("validation" in line for line in metrics_of(tmp_path))


def test_a_validation_has_the_context_of_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("trainer.evaluate.evaluate", lambda *args: seen.append((args[5], args[4].max_tokens)))
    stage = {"name": "longer", "from_step": 3, "set": {"sampling.max_tokens": 9}}
    train_quietly(run_config(tmp_path, num_steps=4, validation=VALIDATION, sampling={"max_tokens": 6}, stages=[stage]))
    assert seen == [(0, 6), (2, 6), (4, 9)]


def test_a_service_that_is_back_when_validation_is_due_is_asked(tmp_path: Path) -> None:
    """It was away for the training of that step, whose rewards are lost."""

    class Away(FakeService):
        def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
            if request_id.split("-")[-3] == "2" and not str(items[0].id).startswith("validation"):
                raise ServiceError("away")
            return super().score(items, deadline_s=deadline_s, request_id=request_id)

    train_quietly(run_config(tmp_path, num_steps=2, validation=VALIDATION), service=Away(by_chance))
    [_, last] = metrics_of(tmp_path)
    assert last["reward_error_frac"] == 1.0
    assert last["validation"]["sets"]["held"]["mean"] is not None
