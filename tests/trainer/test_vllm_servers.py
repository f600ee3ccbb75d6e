"""Servers that are lost, come back, hang or are not what they should be; without vLLM."""

import contextlib
import gc
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psutil
import pytest
import torch

from tests.trainer.stub_vllm import StubVllm
from tests.trainer.vllm_models import request, tokenizer, tokens
from trainer.engine import vllm_http, vllm_servers
from trainer.engine.flight import Reader
from trainer.engine.protocol import Sampling
from trainer.engine.vllm_http import VllmHttpEngine
from trainer.engine.vllm_servers import Server, Servers, refuse_public
from trainer.engine.vllm_weights import FilesChannel
from trainer.errors import ConfigError, EngineError
from trainer.parallel import ALONE, Ranks
from trainer.types import RolloutGroup

T = TypeVar("T")
WEIGHTS = [("a", torch.zeros(3)), ("b", torch.zeros(2))]
REQUESTS = [request(index, [5, 6], 8) for index in range(6)]
SAMPLING = Sampling(1.2, 8)


@pytest.fixture
def stubs() -> Iterator[list[StubVllm]]:
    made = [StubVllm(), StubVllm()]
    yield made
    for stub in made:
        stub.shutdown()
        stub.server_close()


def engine_of(servers: Sequence[Server], patience_s: float = 60.0) -> VllmHttpEngine:
    kept = Servers(servers, patience_s, 64, "files")
    return VllmHttpEngine(kept, FilesChannel(), Reader(tokenizer(), frozenset({1})), 16, ALONE)


@pytest.fixture
def engine(stubs: list[StubVllm]) -> Iterator[VllmHttpEngine]:
    made = engine_of([Server(stub.url) for stub in stubs])
    made.push(WEIGHTS, 0)
    yield made
    made.close()


def rolled(engine: VllmHttpEngine) -> list[RolloutGroup]:
    return sorted(engine.rollout(REQUESTS, SAMPLING), key=lambda group: group.index)


EXPECTED = [(40 + (seed >> 1) % 7, 1) for one in REQUESTS for seed in one.seeds]


def test_all_servers_are_asked(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    assert tokens(rolled(engine)) == EXPECTED
    assert all(len(stub.completions) > 8 for stub in stubs)


def test_a_group_has_one_server_whose_cache_has_its_prompt(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    rolled(engine)
    asked = [{body["sampling_params"]["seed"] for body in stub.completions} for stub in stubs]
    for one in REQUESTS:
        seeds = {seed >> 1 for seed in one.seeds}
        assert [bool(seeds & of_stub) for of_stub in asked].count(True) == 1


def test_completions_of_a_lost_server_are_asked_again_with_the_same_seeds(
    engine: VllmHttpEngine, stubs: list[StubVllm]
) -> None:
    stubs[0].dies_at = 3
    assert tokens(rolled(engine)) == EXPECTED
    asked = {body["sampling_params"]["seed"] for body in stubs[0].completions[3:]}
    assert asked
    assert asked <= {body["sampling_params"]["seed"] for body in stubs[1].completions}


def test_there_are_files_for_a_connection_a_completion(stubs: list[StubVllm]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        engine_of([Server(stubs[0].url)])
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lost_server_serves_again_after_the_next_push(stubs: list[StubVllm]) -> None:
    lost, other = [Server(stub.url) for stub in stubs]
    engine = engine_of([lost, other])
    engine.push(WEIGHTS, 0)
    stubs[0].dies_at = 3
    rolled(engine)
    assert lost.weights is None
    engine.push(WEIGHTS, 1)
    assert lost.weights is None, "it is still down"
    stubs[0].dies_at = None
    stubs[0].statuses.clear()
    assert tokens(rolled(engine)) == EXPECTED
    assert lost.weights is None, "it came back without them"
    engine.push(WEIGHTS, 2)
    assert lost.weights == other.weights == stubs[0].weights
    assert tokens(rolled(engine)) == EXPECTED
    assert lost.weights is not None


def test_a_server_started_anew_behind_our_back_is_not_believed(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    stubs[0].weights = "default"
    assert tokens(rolled(engine)) == EXPECTED
    seeds = {body["sampling_params"]["seed"] for body in stubs[0].completions}
    assert seeds <= {body["sampling_params"]["seed"] for body in stubs[1].completions}


def test_a_hanging_server_is_lost(
    engine: VllmHttpEngine, stubs: list[StubVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_http, "HEALTH_EVERY_S", 0.05)
    monkeypatch.setattr(Server, "is_healthy", lambda self: self.url != stubs[0].url)
    stubs[0].hangs.set()
    assert tokens(rolled(engine)) == EXPECTED


def test_an_engine_that_hangs_behind_its_server_is_unhealthy(stubs: list[StubVllm]) -> None:
    """The route that the engine answers, and not the one that is answered in front of it."""
    server = Server(stubs[0].url)
    assert server.is_healthy()
    stubs[0].statuses["/weight_info"] = 500
    assert not server.is_healthy()


def test_when_all_are_lost_those_that_come_back_get_the_weights_first(
    engine: VllmHttpEngine, stubs: list[StubVllm]
) -> None:
    for stub in stubs:
        stub.weights = "default"
    assert tokens(rolled(engine)) == EXPECTED
    assert {stub.weights for stub in stubs} != {"default"}


def test_without_any_server_the_run_ends_with_a_line(stubs: list[StubVllm]) -> None:
    for stub in stubs:
        stub.statuses["/weight_info"] = 503
    with pytest.raises(EngineError, match="no vLLM server answers"):
        engine_of([Server(stub.url) for stub in stubs], patience_s=0.1).push(WEIGHTS, 0)


def test_a_refused_completion_ends_the_run(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    for stub in stubs:
        stub.statuses["/inference/v1/generate"] = 400
    with pytest.raises(EngineError, match="refuses a completion"):
        rolled(engine)


def test_a_server_that_does_not_take_its_weights_is_left_out(stubs: list[StubVllm]) -> None:
    stubs[0].statuses["/update_weights"] = 500
    engine = engine_of([Server(stub.url) for stub in stubs])
    engine.push(WEIGHTS, 0)
    assert tokens(rolled(engine)) == EXPECTED
    assert stubs[0].completions == []


def test_a_server_whose_old_cache_stays_is_left_out(stubs: list[StubVllm]) -> None:
    """It answers 200 and says in the body that it did nothing."""
    stubs[0].resets_cache = False
    engine = engine_of([Server(stub.url) for stub in stubs])
    engine.push(WEIGHTS, 0)
    assert [server.url for server in engine._servers.serving()] == [stubs[1].url]


def test_what_every_server_dies_of_ends_the_run(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    """They come back each time: without an end it would go on for ever."""
    for stub in stubs:
        stub.statuses["/inference/v1/generate"] = 500
    with pytest.raises(EngineError, match="5 vLLM servers in a row were lost with the same completion"):
        rolled(engine)


def test_what_comes_from_before_a_loss_is_not_blamed_on_the_server_that_came_back(engine: VllmHttpEngine) -> None:
    """It has the same weights under the same name by then."""
    lost = engine._servers.all[0]
    life = lost.num_losses
    engine._servers.lose(lost, "the test says so")
    lost.weights = engine._name
    with vllm_http._Asking(engine._servers, engine._read, lambda: None) as asking:
        asking._lose(lost, life, "an old connection broke")
        assert lost.weights == engine._name
        asking._lose(lost, lost.num_losses, "a new one")
        assert lost.weights is None


def test_a_rollout_without_requests_leaves_nothing_behind(engine: VllmHttpEngine) -> None:
    """As that of a rank which gets no share of a small step."""
    assert list(engine.rollout([], SAMPLING)) == []
    gc.collect()  # of a coroutine that nobody awaits it is told only then


def test_a_rollout_that_is_closed_while_servers_are_lost_ends(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    """And what is asked next is not confused by it."""
    arrivals = engine.rollout(REQUESTS, SAMPLING)
    next(arrivals)
    stubs[0].dies_at = 0
    next(arrivals)
    arrivals.close()
    assert all(server.num_running == 0 for server in engine._servers.all)
    stubs[0].dies_at = None
    stubs[0].statuses.clear()
    engine.push(WEIGHTS, 1)
    assert tokens(rolled(engine)) == EXPECTED
    assert len(engine._servers.serving()) == 2


def test_a_push_pauses_and_resets_before_it_goes_on(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    routes = [route for route, _ in stubs[0].calls]
    assert routes[routes.index("/pause") :] == [
        "/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache", "/resume",
        "/update_weight_version",
    ]  # fmt: skip


def test_a_transfer_that_somebody_left_open_is_closed_first(stubs: list[StubVllm]) -> None:
    stubs[0].updating = True
    server = Server(stubs[0].url)
    engine_of([server]).push(WEIGHTS, 0)
    assert server.weights == stubs[0].weights


def test_answers_of_weights_given_earlier_are_asked_again_of_the_same_server(
    engine: VllmHttpEngine, stubs: list[StubVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [stubs[0].weights, stubs[0].weights]
    engine.push(WEIGHTS, 1)
    true = _completion(stubs[0])

    def late(handler: Any, body: Any) -> Any:
        answer = true(handler, body)
        if answers and "seed" in body["sampling_params"]:
            answer["choices"][0]["weight_versions"][0]["version"] = answers.pop()
        return answer

    monkeypatch.setattr(stubs[0].RequestHandlerClass, "_completion", late)
    assert tokens(rolled(engine)) == EXPECTED
    assert answers == []
    seeds = [body["sampling_params"]["seed"] for stub in stubs for body in stub.completions]
    assert len(seeds) == len(set(seeds)) + 2


def test_a_completion_that_the_server_cut_short_is_asked_again(
    engine: VllmHttpEngine, stubs: list[StubVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is told to end answers what it has so far; it would pass for one that ran into the limit."""
    cut, true = ["abort", "abort"], _completion(stubs[0])

    def ending(handler: Any, body: Any) -> Any:
        answer = true(handler, body)
        if cut and "seed" in body["sampling_params"]:
            choice = answer["choices"][0]
            choice["finish_reason"], choice["token_ids"] = cut.pop(), choice["token_ids"][:1]
            del choice["logprobs"]["content"][1:]
        return answer

    monkeypatch.setattr(stubs[0].RequestHandlerClass, "_completion", ending)
    groups = rolled(engine)
    assert cut == []
    assert tokens(groups) == EXPECTED
    assert not any(rollout.truncated for group in groups for rollout in group.rollouts)


def _completion(stub: StubVllm) -> Any:
    return stub.RequestHandlerClass._completion  # type: ignore[attr-defined]


def test_without_a_server_there_is_no_fingerprint(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    """An empty one would be stored, and its checkpoint never load again."""
    for server in engine._servers.all:
        engine._servers.lose(server, "the test says so")
    with pytest.raises(EngineError, match="no vLLM server"):
        engine.fingerprint([[5, 6, 7]])


def test_a_server_lost_before_its_fingerprint_is_left_out(engine: VllmHttpEngine, stubs: list[StubVllm]) -> None:
    stubs[0].statuses["/inference/v1/generate"] = 500
    assert engine.fingerprint([[3, 4, 5]]) == [[-1.0, -1.0]]
    assert [server.url for server in engine._servers.serving()] == [stubs[1].url]


def test_a_server_started_anew_before_its_fingerprint_is_left_out(
    engine: VllmHttpEngine, stubs: list[StubVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is that of the model on the disk, and would pass for weights that did not arrive."""
    stubs[0].weights = "default"
    told = {stubs[0].url: [-9.0, -9.0], stubs[1].url: [-1.0, -2.0]}
    monkeypatch.setattr(vllm_http, "probe", lambda server, sequence: told[server.url])
    assert engine.fingerprint([[3, 4, 5]]) == [[-1.0, -2.0]]


def test_a_fingerprint_shows_the_server_that_differs(
    engine: VllmHttpEngine, monkeypatch: pytest.MonkeyPatch, stubs: list[StubVllm]
) -> None:
    assert engine.fingerprint([[3, 4, 5]]) == [[-1.0, -1.0]]
    told = {stubs[0].url: [-1.0, -3.0], stubs[1].url: [-1.0, -2.0]}
    monkeypatch.setattr(vllm_http, "probe", lambda server, sequence: told[server.url])
    assert engine.fingerprint([[3, 4, 5]]) == [[-1.0, -3.0]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("version", "0.31.1", "not supported: wanted >=0.32,<0.34"),
        ("version", "0.34.0", "not supported"),
        ("logprobs_mode", "raw_logprobs", "--logprobs-mode is raw_logprobs, wanted processed_logprobs"),
    ],
)
def test_a_server_that_is_not_what_it_should_be_is_refused(
    stubs: list[StubVllm], name: str, value: str, message: str
) -> None:
    setattr(stubs[1], name, value)
    with pytest.raises(ConfigError, match=message) as refused:
        engine_of([Server(stub.url) for stub in stubs]).push(WEIGHTS, 0)
    assert refused.value.exit_code == 2


def test_a_server_too_short_for_the_longest_sequence_is_refused(stubs: list[StubVllm]) -> None:
    with pytest.raises(ConfigError, match="--max-model-len is 64, wanted 65"):
        Servers([Server(stubs[0].url)], 60.0, 65, "files").living()


def test_a_server_without_its_development_routes_is_refused(stubs: list[StubVllm]) -> None:
    stubs[0].statuses["/server_info"] = 404
    with pytest.raises(ConfigError, match=r"wants VLLM_SERVER_DEV_MODE=1: HTTP 404"):
        Servers([Server(stubs[0].url)], 60.0, 64, "files").living()


@pytest.mark.parametrize("url", ["http://8.8.8.8:8000", "http://[2001:4860:4860::8888]:80"])
def test_public_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no private address"):
        refuse_public(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://10.1.2.3:8001",
        "http://[fd00::1]:80",
        "http://100.64.3.4:8001",  # shared address space, where some clouds have their pods
        "http://vllm-0.vllm.invalid:8001",  # a pod that does not run yet has no address
    ],
)
def test_private_addresses_are_taken(url: str) -> None:
    refuse_public(url)


def own(tmp_path: Path, code: str, url: str) -> Server:
    return Server(url, command=[sys.executable, "-c", code], log=tmp_path / "log")


def test_an_own_server_that_cannot_start_ends_the_run_with_its_last_line(tmp_path: Path) -> None:
    server = own(tmp_path, "raise SystemExit('no such model')", "http://127.0.0.1:1")
    with pytest.raises(EngineError, match="no such model"):
        Servers([server], 60.0, 64, "files").living()


def test_an_own_server_that_ended_is_started_again_and_ends_with_the_engine(
    tmp_path: Path, stubs: list[StubVllm]
) -> None:
    server = own(tmp_path, "import time; time.sleep(600)", stubs[0].url)
    servers = Servers([server], 60.0, 64, "files")
    servers.living()
    first = server.process
    assert first is not None
    first.kill()
    first.wait()
    servers.living()
    second = server.process
    assert second is not None
    assert second is not first
    servers.close()
    assert second.poll() is not None


def test_an_own_server_that_hangs_is_started_again(tmp_path: Path, stubs: list[StubVllm]) -> None:
    """Its process lives, so it would be waited for with every push."""
    server = own(tmp_path, "import time; time.sleep(600)", stubs[0].url)
    engine = engine_of([server, Server(stubs[1].url)])
    engine.push(WEIGHTS, 0)
    first = server.process
    assert first is not None
    stubs[0].dies_at = 0
    assert tokens(rolled(engine)) == EXPECTED
    stubs[0].dies_at = None
    stubs[0].statuses.clear()
    engine.push(WEIGHTS, 1)
    assert first.poll() is not None
    assert server.process is not first
    assert server.weights is not None
    engine.close()


def test_an_own_server_that_loads_again_is_not_waited_for_while_another_is_left(
    tmp_path: Path, stubs: list[StubVllm]
) -> None:
    """A device that broke for good would hold up every step."""
    server = own(tmp_path, "import time; time.sleep(600)", stubs[0].url)
    servers = Servers([server, Server(stubs[1].url)], 60.0, 64, "files")
    assert len(servers.living()) == 2
    stubs[0].statuses["/weight_info"] = 503
    begun = time.monotonic()
    assert [s.url for s in servers.living()] == [stubs[1].url]
    assert time.monotonic() - begun < 50
    servers.close()


def test_an_own_server_started_again_in_a_rollout_outlives_it(tmp_path: Path, stubs: list[StubVllm]) -> None:
    """It ends with the thread it was started from: the kernel means the thread where it says parent."""
    server = own(tmp_path, "import time; time.sleep(600)", stubs[0].url)
    engine = engine_of([server])
    engine.push(WEIGHTS, 0)
    first = server.process
    assert first is not None
    first.kill()
    first.wait()
    stubs[0].weights = "default"
    assert tokens(rolled(engine)) == EXPECTED
    second = server.process
    assert second is not None
    assert second is not first
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(2)
    engine.close()


def test_what_a_killed_server_left_behind_ends_too(tmp_path: Path, stubs: list[StubVllm]) -> None:
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    server = own(tmp_path, code, stubs[0].url)
    server.start()
    while not (said := (tmp_path / "log").read_text()).endswith("\n"):
        time.sleep(0.05)
    assert server.process is not None
    server.process.kill()
    server.stop()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(said)).wait(60)
    assert not psutil.pid_exists(int(said))


class TwoRanks(Ranks):
    """Ranks as threads of this process."""

    meeting = threading.Barrier(2, timeout=60)
    told: ClassVar[list[Any]] = []

    def on_main(self, function: Callable[[], T]) -> T:
        if self.is_main:
            self.told.append(function())
        self.meeting.wait()
        value: T = self.told[-1]
        self.meeting.wait()
        return value


def test_when_all_are_lost_one_rank_gives_weights_and_the_others_see_it(stubs: list[StubVllm]) -> None:
    """In the middle of a rollout ranks do not meet."""
    engines = [
        VllmHttpEngine(
            Servers([Server(stub.url) for stub in stubs], 60.0, 64, "files"),
            FilesChannel(),
            Reader(tokenizer(), frozenset({1})),
            16,
            TwoRanks(rank, 2),
        )
        for rank in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda engine: engine.push(WEIGHTS, 0), engines))
        for stub in stubs:
            stub.weights = "default"
        assert list(pool.map(lambda engine: tokens(rolled(engine)), engines)) == [EXPECTED] * 2
    assert {stub.weights for stub in stubs} == {engines[1]._name}, "the same name, or the ranks would not agree"


def test_a_rank_that_waits_in_vain_ends_the_run_with_a_line(
    stubs: list[StubVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_servers, "CONTROL_TIMEOUT_S", 0.1)
    with pytest.raises(EngineError, match="no vLLM server came back with its weights"):
        Servers([Server(stub.url) for stub in stubs], 0.1, 64, "files").wait_for("weights that nobody gives")


def test_every_rank_knows_which_servers_have_the_weights(stubs: list[StubVllm]) -> None:
    stubs[0].statuses["/update_weights"] = 500
    taken: list[int] = []

    def weights(rank: int) -> Iterator[tuple[str, torch.Tensor]]:
        for pair in WEIGHTS:
            taken.append(rank)  # each is put together by all ranks
            yield pair

    def be(rank: int) -> tuple[Any, Any]:
        kept = Servers([Server(stub.url) for stub in stubs], 60.0, 64, "files")
        reader, ranks = Reader(tokenizer(), frozenset({1})), TwoRanks(rank, 2)
        engine = VllmHttpEngine(kept, FilesChannel(), reader, 16, ranks)
        engine.push(weights(rank), 0)
        return tokens(rolled(engine)), engine.fingerprint([[3, 4, 5]])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(be, range(2))) == [(EXPECTED, [[-1.0, -1.0]])] * 2
    assert sorted(taken) == [0, 0, 1, 1]
    assert not stubs[0].completions
