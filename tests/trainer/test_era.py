"""The hard reset, within a run."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.trainer.tiny import FakeService, by_chance, metrics_of, run_config, train_quietly
from trainer import era as era_module
from trainer.checkpoint import Checkpoints, weights_hash
from trainer.errors import ResetError
from trainer.ledger import read_ledger
from trainer.policy import Policy, load_model
from trainer.run import Run
from verifier_service.schemas import Item, ScoreResponse

VALIDATION = {
    "sources": [{"name": "held", "dataset": "spell_backward", "seed": 2, "count": 4}],
    "every_steps": 1,
    "num_samples": 2,
}


def test_a_reset_is_an_event_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    run = train_quietly(run_config(tmp_path, num_steps=3, reset__every_steps=2, checkpoint__every_steps=100))
    reset = next(event for event in read_ledger(tmp_path) if event.event == "reset")
    assert (reset.step, reset.era, reset.cause) == (2, 1, "schedule")
    assert reset.reference_hash == weights_hash(tmp_path / "eras" / "era-1")

    saved = Checkpoints(tmp_path, 2).load(2)  # off schedule: the reset forced it
    assert (saved.state.era, saved.state.triggers.era_start_step) == (1, 2)
    assert not (saved.folder / "optimizer").exists(), "a fresh optimizer has no moments"
    assert weights_hash(saved.policy_folder) == reset.reference_hash
    assert saved.fingerprint["policy"] == saved.fingerprint["reference"]
    assert weights_hash(tmp_path / "eras" / "era-0") != reset.reference_hash

    first, second, third = metrics_of(tmp_path)
    assert [line["era"] for line in (first, second, third)] == [0, 0, 1]
    assert [line["learning_rate"] for line in (first, second, third)] == [0.0005, 0.001, 0.0005], "warm-up again"
    assert third["kl_ref"] < second["kl_ref"], "the distance is measured from the new reference"
    assert run.state.era == 1


def test_nothing_is_carried_into_the_next_era(tmp_path: Path) -> None:
    config = {"filter__oversample": 2.0, "num_steps": 5, "checkpoint__every_steps": 1, "checkpoint__keep": 9}
    train_quietly(run_config(tmp_path, reset__every_steps=3, **config))
    carried = [len(Checkpoints(tmp_path, 9).load(step).state.carry) for step in (1, 2, 3)]
    assert carried[0] > 0, "otherwise this shows nothing"
    assert carried[2] == 0
    train_quietly(run_config(tmp_path.with_name("long"), **config))
    assert len(Checkpoints(tmp_path.with_name("long"), 9).load(3).state.carry) > 0, "a reset made the difference"


def test_v2_keeps_the_optimizer(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path, num_steps=3, reset={"every_steps": 2, "optimizer": "keep"}))
    assert (Checkpoints(tmp_path, 2).load(2).folder / "optimizer").exists()


def test_the_best_validated_policy_begins_the_next_era(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    went_back_to: dict[int, str] = {}
    go_back = Run.go_back_to_policy_of

    def recorded(run: Run, step: int) -> None:
        went_back_to[step] = weights_hash(run.checkpoints.load(step).policy_folder)
        go_back(run, step)

    monkeypatch.setattr(Run, "go_back_to_policy_of", recorded)
    settings = {"every_steps": 4, "source": "best"}
    train_quietly(run_config(tmp_path, num_steps=6, validation=VALIDATION, reset=settings))
    start = read_ledger(tmp_path)[0].validation
    assert start is not None
    scores = {0: start["blend"]} | {m["step"]: m["validation"]["score"] for m in metrics_of(tmp_path)[:4]}
    best = max(scores, key=lambda step: (scores[step], -step))
    assert best != 4, "choose another seed: with the last one best this shows nothing"
    assert went_back_to == {best: weights_hash(tmp_path / "eras" / "era-1")}
    reset = next(event for event in read_ledger(tmp_path) if event.event == "reset")
    assert (reset.step, reset.policy_step, reset.validation) == (4, best, {"blend": scores[best]})


def test_a_stage_may_ask_for_the_best_policy(tmp_path: Path) -> None:
    """Its checkpoint is kept off schedule, also from before the stage."""
    stage = {"name": "as v2", "from_step": 4, "set": {"reset.source": "best"}}
    config = {"reset__every_steps": 4, "checkpoint__every_steps": 100, "validation": VALIDATION}
    run = train_quietly(run_config(tmp_path, num_steps=6, stages=[stage], **config))
    assert run.state.era == 1


def test_a_resumed_run_may_ask_for_the_best_policy(tmp_path: Path) -> None:
    """Of the validations before, whose checkpoints nobody kept, none can be gone back to."""
    config = {"checkpoint__every_steps": 100, "validation": VALIDATION}
    train_quietly(run_config(tmp_path, num_steps=4, **config))
    reset = {"every_steps": 6, "source": "best"}
    run = train_quietly(run_config(tmp_path, num_steps=8, reset=reset, **config))
    assert run.state.era == 1
    reset_line = next(event for event in read_ledger(tmp_path) if event.event == "reset")
    assert reset_line.policy_step in (None, 5)


def test_a_best_policy_that_was_lost_with_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    """Step 4 was better than step 2 and took its place; then step 4 is damaged, and step 3 remembers step 2."""
    rewards = {0: 0.0, 1: 0.0, 2: 0.5, 3: 0.25, 4: 1.0}
    reset = {"every_steps": 6, "source": "best"}
    config = {"validation": VALIDATION, "checkpoint__every_steps": 1, "reset": reset}
    run = train_quietly(run_config(tmp_path, num_steps=4, **config), service=ScoredBySteps(rewards))
    assert run.checkpoints.steps() == [3, 4]
    assert run.checkpoints.load(3).state.best is not None
    (run.checkpoints._of_step(4) / "manifest.json").unlink()
    run = train_quietly(run_config(tmp_path, num_steps=7, **config), service=ScoredBySteps({}))
    assert run.state.era == 1


class ScoredBySteps(FakeService):
    """Validations of a step all get its reward; half where none is named."""

    def __init__(self, rewards: dict[int, float]) -> None:
        super().__init__(by_chance)
        self.rewards = rewards

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        held = str(items[0].id).startswith("validation")
        step = int(request_id.split("-")[-3])
        self.judge = (lambda item, completion: self.rewards.get(step, 0.5)) if held else by_chance
        return super().score(items, deadline_s=deadline_s, request_id=request_id)


def test_touching_reset_ends_the_era_once(tmp_path: Path) -> None:
    def touching(item: object, completion: str) -> float:
        if calls.pop() == 1:
            (tmp_path / "RESET").touch()
        return by_chance(item, completion)  # type: ignore[arg-type]

    calls = list(range(10_000, 0, -1))
    run = train_quietly(run_config(tmp_path, num_steps=4), touching)
    assert [(e.step, e.cause) for e in read_ledger(tmp_path) if e.event == "reset"] == [(1, "reset_file")]
    assert run.state.era == 1
    assert not (tmp_path / "RESET").exists()


def test_a_stage_can_begin_with_a_reset(tmp_path: Path) -> None:
    stage = {"name": "longer", "from_step": 3, "with_reset": True, "set": {"sampling.max_tokens": 3}}
    train_quietly(run_config(tmp_path, stages=[stage]))
    events = [(e.event, e.step, e.cause) for e in read_ledger(tmp_path)]
    assert events == [
        ("start", 0, "new"),
        ("reset", 2, "stage"),
        ("stage", 2, "longer"),
        ("finish", 4, "all steps done"),
    ]
    assert [line["completion_tokens_max"] for line in metrics_of(tmp_path)] == [6, 6, 3, 3]


def test_a_run_prolonged_at_the_edge_of_a_stage_makes_up_for_its_reset(tmp_path: Path) -> None:
    """The first part had no step to reset for. Opened a third time it does not reset again."""
    stage = {"name": "longer", "from_step": 3, "with_reset": True, "set": {"sampling.max_tokens": 3}}
    train_quietly(run_config(tmp_path, num_steps=2, stages=[stage]))
    assert [e.event for e in read_ledger(tmp_path)] == ["start", "finish"]
    for num_steps in (3, 4):
        run = train_quietly(run_config(tmp_path, num_steps=num_steps, stages=[stage]))
    assert [(e.step, e.cause) for e in read_ledger(tmp_path) if e.event == "reset"] == [(2, "stage")]
    assert run.state.era == 1
    assert [line["era"] for line in metrics_of(tmp_path)] == [0, 0, 1, 1]


def test_a_reset_that_does_not_take_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []

    def once(source: Policy, target: Policy) -> None:
        copies.append(source)  # and nothing else

    monkeypatch.setattr(era_module, "copy_weights", once)
    with pytest.raises(ResetError, match="step 2"):
        train_quietly(run_config(tmp_path, reset__every_steps=2))
    assert len(copies) == 2
    assert Checkpoints(tmp_path, 2).load_latest() is not None


def test_an_era_can_be_branched_off(tmp_path: Path) -> None:
    train_quietly(run_config(tmp_path / "first", reset__every_steps=2))
    branch = run_config(tmp_path / "branch", model={"path": str(tmp_path / "first" / "eras" / "era-1")})
    run: Run = train_quietly(branch)
    start = read_ledger(tmp_path / "branch")[0]
    assert (start.cause, start.parent) == ("branch", "first era 1 step 2")
    begun = load_model(tmp_path / "branch" / "eras" / "era-0", torch.float32)
    parent = load_model(tmp_path / "first" / "eras" / "era-1", torch.float32)
    assert run.probe.by_policy(Policy(begun, 1.2)) == run.probe.by_policy(Policy(parent, 1.2))
