"""The real vLLM in this process: its samples, their log-probabilities, and weights that arrive."""

from collections.abc import Iterator

import pytest
import torch

from tests.trainer.vllm_models import (
    END_IDS,
    MAX_MODEL_LEN,
    NEEDS_VLLM,
    PROBE,
    REQUESTS,
    SETTINGS,
    largest_error,
    model,
    request,
    rolled,
    save,
    tokenizer,
    tokens,
)
from trainer.engine.flight import Reader
from trainer.engine.protocol import Engine, Sampling
from trainer.errors import WeightSyncError
from trainer.policy import Policy
from trainer.weight_sync import push_weights

pytestmark = NEEDS_VLLM
TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def engine(tied: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    from trainer.engine.vllm_engine import VllmEngine

    folder = save(tmp_path_factory.mktemp("model"), 0, tied)
    made = VllmEngine(folder, Reader(tokenizer(), END_IDS), SETTINGS, MAX_MODEL_LEN, torch.float32)
    yield made
    made.close()


def test_logprobs_are_those_of_the_trainer_at_the_temperature(engine: Engine, tied: bool) -> None:
    policy = Policy(model(0, tied), 1.2)
    push_weights(policy, engine, 0, PROBE, TOLERANCE)
    groups = rolled(engine)
    assert [len(group.rollouts) for group in groups] == [8, 8, 8]
    assert len({len(ids) for ids in tokens(groups)}) > 3
    assert largest_error(groups, policy) < TOLERANCE
    assert largest_error(groups, Policy(model(0, tied), 1.0)) > 0.1


def test_seeds_decide_and_nothing_else(engine: Engine) -> None:
    together = rolled(engine)
    again = [group for one in reversed(REQUESTS) for group in rolled(engine, [one])]
    assert tokens(together) == tokens(sorted(again, key=lambda group: group.index))
    assert len(set(tokens(together))) > 20


def test_completions_end_at_the_policys_end_tokens_only(engine: Engine) -> None:
    for group in rolled(engine):
        for rollout in group.rollouts:
            ends = [token in END_IDS for token in rollout.token_ids]
            assert not any(ends[:-1])
            assert rollout.truncated is not ends[-1]
            assert not rollout.truncated or len(rollout.token_ids) == 24


@pytest.mark.parametrize("seed", [1, 2])
def test_pushed_weights_count_also_behind_the_prefix_cache(engine: Engine, tied: bool, seed: int) -> None:
    rolled(engine)  # the long prompt is in the cache now, computed with the old weights
    policy = Policy(model(seed, tied), 1.2)
    assert push_weights(policy, engine, seed, PROBE, TOLERANCE) < TOLERANCE
    groups = rolled(engine)
    assert largest_error(groups, policy) < TOLERANCE
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {seed}


def test_weights_pushed_while_requests_run_leave_no_old_cache(engine: Engine, tied: bool) -> None:
    unfinished = engine.rollout(REQUESTS, Sampling(1.2, 24))
    next(unfinished)
    policy = Policy(model(3, tied), 1.2)
    push_weights(policy, engine, 3, PROBE, TOLERANCE)
    unfinished.close()
    assert not engine._engine.has_unfinished_requests(), "they would hold memory"  # type: ignore[attr-defined]
    assert largest_error(rolled(engine), policy) < TOLERANCE


def test_a_rollout_goes_on_after_weights_were_pushed_and_probed(engine: Engine, tied: bool) -> None:
    """Completions that end while the probe is answered belong to the rollout."""
    arrivals = engine.rollout(REQUESTS, Sampling(1.2, 24))
    first = next(arrivals)
    push_weights(Policy(model(3, tied), 1.2), engine, 4, PROBE, TOLERANCE)
    assert len([first, *arrivals]) == len(REQUESTS)


def test_an_engine_asleep_is_woken_by_what_needs_it(
    engine: Engine, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU its weights would be copied into memory that was given back."""
    woken = []
    monkeypatch.setattr(engine, "_can_sleep", True)
    monkeypatch.setattr(engine._engine, "sleep", lambda level: None)  # type: ignore[attr-defined]
    monkeypatch.setattr(engine._engine, "wake_up", lambda: woken.append("woken"))  # type: ignore[attr-defined]
    engine.sleep()
    engine.push(Policy(model(3, tied), 1.2).weights(), 5)
    assert len(woken) == 1
    engine.sleep()
    rolled(engine)
    engine.sleep()
    engine.fingerprint(PROBE.sequences)
    assert len(woken) == 3


def test_the_same_weights_say_the_same_to_the_last_bit(engine: Engine, tied: bool) -> None:
    """By which a push that was lost is told from one that arrived, also where rounding hides it."""
    policy = Policy(model(3, tied), 1.2)
    engine.push(policy.weights(), 6)
    before = engine.fingerprint(PROBE.sequences)
    rolled(engine)
    engine.push(policy.weights(), 7)
    assert engine.fingerprint(PROBE.sequences) == before


def test_a_push_that_loses_a_weight_is_noticed(engine: Engine, tied: bool) -> None:
    policy = Policy(model(3, tied), 1.2)
    push_weights(policy, engine, 3, PROBE, TOLERANCE)
    lost = "model.embed_tokens.weight"
    with torch.no_grad():
        policy.model.get_input_embeddings().weight += 0.05

    class Losing(Policy):
        def weights(self):  # type: ignore[no-untyped-def]
            return ((name, tensor) for name, tensor in super().weights() if name not in (lost, "lm_head.weight"))

    with pytest.raises(WeightSyncError, match="did not arrive"):
        push_weights(Losing(policy.model, 1.2), engine, 4, PROBE, TOLERANCE)


def test_groups_come_as_they_finish_and_requests_go_as_there_is_room(engine: Engine) -> None:
    taken = []

    def source():  # type: ignore[no-untyped-def]
        for index in range(12):
            taken.append(index)
            yield request(index, [40 + index], 8)

    arrivals = engine.rollout(source(), Sampling(1.2, 24))
    next(arrivals)
    assert len(taken) < 12, "32 completions at once are four groups"
    assert len(list(arrivals)) == 11
