"""The real vLLM as servers of their own: started, given weights, asked, killed, started again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
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
    rolled,
    save,
    tokenizer,
    tokens,
)
from trainer.engine.flight import Reader
from trainer.engine.protocol import Sampling
from trainer.engine.vllm_http import VllmHttpEngine
from trainer.engine.vllm_servers import Server, Servers, own_server
from trainer.engine.vllm_weights import FilesChannel
from trainer.parallel import ALONE
from trainer.policy import Policy
from trainer.weight_sync import push_weights

pytestmark = [*NEEDS_VLLM, pytest.mark.timeout(3000)]
TOLERANCE = 1e-3


class Fixture:
    def __init__(self, folder: Path, tied: bool) -> None:
        self.tied = tied
        name = save(folder, 0, tied)
        self.server: Server = own_server("", name, SETTINGS, MAX_MODEL_LEN, torch.float32, "files", folder / "vllm.log")
        self.policy = Policy(model(1, tied), 1.2)
        self.engine = VllmHttpEngine(
            Servers([self.server], 1400.0, MAX_MODEL_LEN, "files"),
            FilesChannel(),
            Reader(tokenizer(), END_IDS),
            SETTINGS.max_rows,
            ALONE,
        )


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    fixture = Fixture(tmp_path_factory.mktemp("served"), request.param)
    try:
        yield fixture
    finally:
        fixture.engine.close()


def test_weights_arrive_and_logprobs_are_those_of_the_trainer(served: Fixture) -> None:
    assert push_weights(served.policy, served.engine, 1, PROBE, TOLERANCE) < TOLERANCE
    groups = rolled(served.engine)
    assert largest_error(groups, served.policy) < TOLERANCE
    assert {rollout.policy_version for group in groups for rollout in group.rollouts} == {1}
    again = [group for one in reversed(REQUESTS) for group in rolled(served.engine, [one])]
    assert tokens(groups) == tokens(sorted(again, key=lambda group: group.index))


def test_weights_given_while_completions_wait_leave_no_old_cache(served: Fixture) -> None:
    unfinished = served.engine.rollout(REQUESTS, Sampling(1.2, 24))
    next(unfinished)
    assert push_weights(served.policy, served.engine, 2, PROBE, TOLERANCE) < TOLERANCE
    unfinished.close()
    assert largest_error(rolled(served.engine), served.policy) < TOLERANCE


def test_a_transfer_that_a_dead_trainer_left_halfway_is_made_good(served: Fixture) -> None:
    push_weights(served.policy, served.engine, 3, PROBE, TOLERANCE)
    other = list(Policy(model(2, served.tied), 1.2).weights())
    served.server.post("/pause?mode=keep")
    served.server.post("/start_weight_update")
    FilesChannel().send(other[: len(other) // 2], [served.server])
    assert push_weights(served.policy, served.engine, 4, PROBE, TOLERANCE) < TOLERANCE
    assert largest_error(rolled(served.engine), served.policy) < TOLERANCE


def test_weights_arrive_after_some_that_the_server_could_not_take(served: Fixture) -> None:
    """It is given them again without being started anew."""
    push_weights(served.policy, served.engine, 3, PROBE, TOLERANCE)
    served.server.post("/pause?mode=keep")
    served.server.post("/start_weight_update")
    with pytest.raises(httpx.HTTPStatusError):
        served.server.post("/update_weights", {"update_info": {"path": "/nowhere"}})
    assert push_weights(served.policy, served.engine, 4, PROBE, TOLERANCE) < TOLERANCE
    assert largest_error(rolled(served.engine), served.policy) < TOLERANCE


def test_a_server_killed_in_the_middle_of_a_push_is_started_again_and_given_the_weights(
    served: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_weights(served.policy, served.engine, 3, PROBE, TOLERANCE)
    first, true = served.server.process, FilesChannel.send
    assert first is not None

    def killing(channel: FilesChannel, weights: Any, servers: Sequence[Server]) -> list[Server]:
        if served.server.process is first:
            first.kill()
            first.wait()
        return true(channel, weights, servers)

    monkeypatch.setattr(FilesChannel, "send", killing)
    assert push_weights(served.policy, served.engine, 4, PROBE, TOLERANCE) < TOLERANCE
    assert served.server.process is not first
    assert largest_error(rolled(served.engine), served.policy) < TOLERANCE


def test_a_killed_server_is_started_again_and_its_completions_are_asked_again(served: Fixture) -> None:
    push_weights(served.policy, served.engine, 3, PROBE, TOLERANCE)
    expected = tokens(rolled(served.engine))
    arrivals = served.engine.rollout(REQUESTS, Sampling(1.2, 24))
    first = next(arrivals)
    assert served.server.process is not None
    served.server.process.kill()
    groups = sorted([first, *arrivals], key=lambda group: group.index)
    assert tokens(groups) == expected
    assert largest_error(groups, served.policy) < TOLERANCE
