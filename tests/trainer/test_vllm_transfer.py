"""Weights over a group of which every member is needed: who joins it, and what becomes of it when one is lost."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.gloo_server import GlooChannel
from tests.trainer.stub_vllm import StubVllm
from tests.trainer.vllm_models import tokenizer
from trainer.engine import vllm_weights
from trainer.engine.flight import Reader
from trainer.engine.vllm_http import VllmHttpEngine
from trainer.engine.vllm_servers import Server, Servers, healthy
from trainer.engine.vllm_weights import NcclChannel, chunks
from trainer.errors import EngineError
from trainer.parallel import ALONE

WEIGHTS = [("a", torch.zeros(3)), ("b", torch.zeros(2))]


class Broadcast:
    """A group on which nothing is sent."""

    def __init__(self) -> None:
        self.destroyed = threading.Event()

    def destroy(self) -> None:
        self.destroyed.set()


@pytest.fixture
def stubs() -> Iterator[list[StubVllm]]:
    made = [StubVllm(), StubVllm()]
    for stub in made:
        stub.backend = "nccl"
    yield made
    for stub in made:
        stub.shutdown()
        stub.server_close()


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> NcclChannel:
    made = NcclChannel(torch.device("cpu"))
    monkeypatch.setattr(made, "_open", lambda common: Broadcast())
    monkeypatch.setattr(made, "_broadcast", lambda group, tensors: None)
    return made


@pytest.fixture
def engine(stubs: list[StubVllm], channel: NcclChannel) -> VllmHttpEngine:
    return engine_of([Server(stub.url) for stub in stubs], channel)


def engine_of(servers: list[Server], channel: NcclChannel) -> VllmHttpEngine:
    return VllmHttpEngine(Servers(servers, 200.0, 64, "nccl"), channel, Reader(tokenizer(), frozenset({1})), 16, ALONE)


def init_infos(stub: StubVllm) -> list[Any]:
    return [body["init_info"] for route, body in stub.calls if route == "/init_weight_transfer_engine"]


def serving(engine: VllmHttpEngine) -> list[str]:
    return [server.url for server in engine._servers.serving()]


def test_workers_of_all_servers_join_one_group(
    stubs: list[StubVllm], channel: NcclChannel, engine: VllmHttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(channel, "_open", lambda common: opened.append(common))
    stubs[0].world_size, stubs[1].world_size = 2, 4
    engine.push(WEIGHTS, 0)
    [first], [second] = map(init_infos, stubs)
    assert (first["rank_offset"], second["rank_offset"]) == (1, 3), "rank 0 is the trainer"
    assert first["world_size"] == second["world_size"] == opened[0]["world_size"] == 7
    assert first["master_address"] == "127.0.0.1"
    assert first["master_port"] == second["master_port"] == opened[0]["master_port"]


def test_the_group_stays_as_long_as_its_members_do(stubs: list[StubVllm], engine: VllmHttpEngine) -> None:
    engine.push(WEIGHTS, 0)
    engine.push(WEIGHTS, 1)
    assert [len(init_infos(stub)) for stub in stubs] == [1, 1]
    stubs[1].weights = "default"  # started anew, and nobody asked it anything since
    engine.push(WEIGHTS, 2)
    assert [len(init_infos(stub)) for stub in stubs] == [2, 2]


@pytest.mark.parametrize("updating", [False, True], ids=["idle", "in the middle of an update"])
def test_a_group_that_a_dead_trainer_left_is_given_up_first(
    stubs: list[StubVllm], engine: VllmHttpEngine, updating: bool
) -> None:
    stubs[0].updating = updating
    engine.push(WEIGHTS, 0)
    routes = [route for route, _ in stubs[0].calls]
    given_up = [i for i, route in enumerate(routes) if route == "/shutdown_weight_transfer_engine"]
    assert len(given_up) == 1 + updating, "while an update is open it is refused"
    assert given_up[-1] < routes.index("/init_weight_transfer_engine")


def never(*_: Any) -> None:
    threading.Event().wait()


@pytest.mark.parametrize("route", ["/init_weight_transfer_engine", "/update_weights"])
def test_weights_reach_the_others_where_one_server_fails_and_nccl_waits_for_it(
    stubs: list[StubVllm],
    channel: NcclChannel,
    engine: VllmHttpEngine,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
) -> None:
    """The one that fails is tried a second time, then the others are given weights without it."""
    opened: list[Broadcast] = []
    monkeypatch.setattr(channel, "_open", lambda common: opened.append(Broadcast()) or opened[-1])
    patched = "_open" if "init" in route else "_broadcast"
    true, waits = getattr(channel, patched), iter([True, True, False])
    monkeypatch.setattr(channel, patched, lambda *what: never() if next(waits) else true(*what))
    stubs[0].statuses[route] = 500
    before = set(threading.enumerate())
    engine.push(WEIGHTS, 0)
    assert serving(engine) == [stubs[1].url]
    assert [info["world_size"] for info in init_infos(stubs[1])] == [3, 3, 2]
    assert [group.destroyed.is_set() for group in opened] == ([True] * 2 if patched == "_broadcast" else []) + [False]
    assert all(thread.daemon for thread in set(threading.enumerate()) - before), "the process could not end"


def test_who_fails_once_is_given_weights_at_the_second_time(
    stubs: list[StubVllm], engine: VllmHttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, failures = StubVllm.work, [RuntimeError("once")]

    def work(stub: StubVllm, route: str, body: Any) -> None:
        if stub is stubs[0] and route == "/update_weights" and failures:
            raise failures.pop()
        true(stub, route, body)

    monkeypatch.setattr(StubVllm, "work", work)
    engine.push(WEIGHTS, 0)
    assert serving(engine) == [stub.url for stub in stubs]


def test_a_broadcast_that_never_ends_is_given_up(
    stubs: list[StubVllm], channel: NcclChannel, engine: VllmHttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server says anything; the time limit is the trainer's."""
    opened: list[Broadcast] = []
    monkeypatch.setattr(channel, "_open", lambda common: opened.append(Broadcast()) or opened[-1])
    monkeypatch.setattr(channel, "_broadcast", lambda group, _: group.destroyed.wait())
    true = channel.send

    def send(*arguments: Any) -> list[Server]:
        with monkeypatch.context() as patched:
            patched.setattr(vllm_weights, "CONTROL_TIMEOUT_S", 0.5)
            return true(*arguments)

    monkeypatch.setattr(channel, "send", send)
    with pytest.raises(EngineError, match="did not take them"):
        engine.push(WEIGHTS, 0)
    assert len(opened) == 2
    assert all(group.destroyed.wait(60) for group in opened)
    assert serving(engine) == []


def test_a_transfer_to_nobody_ends_with_a_line(stubs: list[StubVllm], engine: VllmHttpEngine) -> None:
    for stub in stubs:
        stub.statuses["/pause"] = 500
    with pytest.raises(EngineError, match="no vLLM server is left"):
        engine.push(WEIGHTS, 0)


@pytest.fixture
def over_gloo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VllmHttpEngine]:
    """Two servers of our own in processes of their own; three parts of weights."""
    servers = []
    for name in "ab":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "tests.trainer.gloo_server", str(port), str(tmp_path / name)]
        servers.append(Server(f"http://127.0.0.1:{port}", command=command, log=tmp_path / f"{name}.log"))
    monkeypatch.setattr(vllm_weights, "CHUNK_BYTES", 8)
    engine = engine_of(servers, GlooChannel())
    yield engine
    engine.close()


def ones(value: float) -> list[tuple[str, torch.Tensor]]:
    return [(name, torch.full((2,), value)) for name in "xyz"]


def process(engine: VllmHttpEngine, index: int) -> int:
    running = engine._servers.all[index].process
    assert running is not None
    return running.pid


def wait_for_all(engine: VllmHttpEngine) -> None:
    servers = engine._servers.all
    while len(healthy(servers)) < len(servers):
        for server in servers:
            server.start()
        time.sleep(0.1)


def test_a_server_killed_in_the_middle_of_a_push_is_replaced(over_gloo: VllmHttpEngine, tmp_path: Path) -> None:
    """A real group that really breaks: the survivor is in the next one, without being started again."""
    over_gloo.push(ones(1.0), 0)
    assert over_gloo.fingerprint([[3, 4]]) == [[-6.0]]
    killed, survivor = process(over_gloo, 0), process(over_gloo, 1)
    (tmp_path / "a").write_text("SIGKILL")
    over_gloo.push(ones(2.0), 1)
    assert serving(over_gloo) == [over_gloo._servers.all[1].url]
    assert over_gloo.fingerprint([[3, 4]]) == [[-12.0]]
    wait_for_all(over_gloo)
    over_gloo.push(ones(3.0), 2)
    assert len(serving(over_gloo)) == 2
    assert over_gloo.fingerprint([[3, 4]]) == [[-18.0]]
    assert process(over_gloo, 0) != killed
    assert process(over_gloo, 1) == survivor


@pytest.mark.soak
def test_a_server_that_stops_in_the_middle_of_a_push_takes_no_more_than_time(
    over_gloo: VllmHttpEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is refused and no connection breaks: only the time limit ends it."""
    over_gloo.push(ones(1.0), 0)
    stopped = process(over_gloo, 0)
    monkeypatch.setattr(vllm_weights, "CONTROL_TIMEOUT_S", 20.0)
    (tmp_path / "a").write_text("SIGSTOP")
    over_gloo.push(ones(2.0), 1)
    assert over_gloo.fingerprint([[3, 4]]) == [[-12.0]]
    wait_for_all(over_gloo)
    over_gloo.push(ones(3.0), 2)
    assert over_gloo.fingerprint([[3, 4]]) == [[-18.0]]
    assert process(over_gloo, 0) != stopped


def test_chunks_hold_what_fits_and_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_weights, "CHUNK_BYTES", 40)
    sizes = [4, 6, 1, 20, 2]
    found = [[t.numel() for _, t in chunk] for chunk in chunks([(str(n), torch.zeros(n)) for n in sizes])]
    assert found == [[4, 6], [1], [20], [2]]
