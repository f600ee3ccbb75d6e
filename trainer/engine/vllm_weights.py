"""New weights for vLLM servers by their weight-transfer interface: pause, start, chunk after chunk, finish, resume."""

import logging
import shutil
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import torch
from safetensors.torch import save_file

from trainer.engine.vllm_request import dtype_name
from trainer.engine.vllm_servers import CONTROL_TIMEOUT_S, Server, Servers, healthy, in_one_line, on_all

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**30
"""Weights under way at once: few requests a push, and memory for that much beside the model."""
MAX_FAILURES = 2
"""Of a server in one push, before the others are given weights without it."""
Weights = list[tuple[str, torch.Tensor]]


class BrokenTransfer(Exception):
    """Members of the group fail or hang, so that nobody has the weights. Never leaves this module."""

    def __init__(self, reason: str, guilty: Sequence[Server]) -> None:
        super().__init__(reason)
        self.guilty = guilty


def give(weights: Weights, servers: Servers, channel: "Channel", name: str) -> None:
    """Weights for all servers that live, again for those that are left or come back until one has them.

    Raises EngineError where none is left that takes them.
    """
    failures: Counter[Server] = Counter()
    have: list[Server] = []
    while not have:
        asked = servers.living({server for server, count in failures.items() if count >= MAX_FAILURES})
        try:
            have = transfer(weights, asked, channel, name)
            failures.update(server for server in asked if server not in have)
        except BrokenTransfer as broken:
            logger.warning("a transfer of weights broke: %s", broken)
            failures.update(broken.guilty)
        failed = [server for server in asked if server not in have]
        well = healthy(failed)
        for server in asked:
            server.weights = name if server in have else None
        for server in failed:  # those that are well are tried again before they are started again
            if have or server not in well or failures[server] >= MAX_FAILURES:
                servers.lose(server, "it did not take its weights")


def transfer(weights: Weights, servers: Sequence[Server], channel: "Channel", name: str) -> list[Server]:
    """Servers that have the weights now and say so by `name` with every completion; requests under way wait."""
    servers = on_all(servers, lambda s: s.post("/pause?mode=keep"))
    servers = channel.join(servers)
    servers = on_all(servers, lambda s: insist(s, "/start_weight_update"))
    for chunk in chunks(weights):
        servers = channel.send(chunk, servers)
    servers = on_all(servers, lambda s: s.post("/finish_weight_update"))
    servers = on_all(servers, reset_cache)
    servers = on_all(servers, lambda s: s.post("/resume"))
    # The name comes last: who reads it may count on all the rest.
    return on_all(servers, lambda s: s.post("/update_weight_version", {"new_version": name}))


def insist(server: Server, route: str) -> None:
    """Raises httpx.HTTPError."""
    try:
        server.post(route)
    except httpx.HTTPStatusError:  # a transfer that broke left an update open
        server.post("/finish_weight_update")
        server.post(route)


def reset_cache(server: Server) -> None:
    """Raises httpx.HTTPError.

    Without reset_running_requests nothing is reset while a request waits, and old keys and values would be used on.
    """
    if not server.post("/reset_prefix_cache?reset_running_requests=true")["success"]:
        raise httpx.HTTPError("its prefix cache was not reset")


def chunks(weights: Weights) -> Iterator[Weights]:
    """Tensors in their order, up to `CHUNK_BYTES` together, one at least."""
    chunk: Weights = []
    size = 0
    for name, tensor in weights:
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor))
        size += tensor.nbytes
    if chunk:
        yield chunk


class FilesChannel:
    """Through files on this machine, in memory where it has a place for them; for servers on a CPU."""

    backend = "files"

    def join(self, servers: Sequence[Server]) -> list[Server]:
        """Nothing to connect."""
        return list(servers)

    def send(self, weights: Weights, servers: Sequence[Server]) -> list[Server]:
        """The servers that took them."""
        folder = Path(tempfile.mkdtemp(prefix="weights-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        try:
            path = folder / "chunk.safetensors"
            save_file(dict(weights), path)
            return on_all(servers, lambda s: s.post("/update_weights", {"update_info": {"path": str(path)}}))
        finally:
            shutil.rmtree(folder)


class NcclChannel:
    """One broadcast from this process to all workers of all servers. Rank 0 of the transfer's group is the trainer.

    A group that lost a member waits for it without end. So every wait is in a thread and has a limit; after it this end
    is aborted. Servers that go on waiting answer nothing, by which they are found out, and are started again.
    """

    backend = "nccl"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._members: list[Server] = []
        self._group: Any = None

    def join(self, servers: Sequence[Server]) -> list[Server]:
        """Connect to these and to no others, but for those that fail. Raises BrokenTransfer."""
        # A server that was started anew is no member any more, though its address is the same.
        if self._members == list(servers) and all(s.weights and s.weights_it_has() == s.weights for s in servers):
            return self._members
        self._leave()
        # They may hold the group of a trainer that died.
        servers = on_all(servers, lambda s: insist(s, "/shutdown_weight_transfer_engine"))
        if not servers:
            return []
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        common = {"master_address": own_address(servers), "master_port": port, "packed": False}
        common["world_size"] = 1 + sum(server.num_workers for server in servers)
        joining, rank = {}, 1
        for server in servers:
            info = {"init_info": common | {"rank_offset": rank}}
            joining[server] = begin(server.post, "/init_weight_transfer_engine", info)
            rank += server.num_workers
        opening = begin(self._open, common)
        settle(opening, joining)
        self._group, self._members = opening.result(), servers
        return servers

    def _leave(self) -> None:
        if self._group is not None:
            wait([begin(self._group.destroy)], timeout=CONTROL_TIMEOUT_S)
        self._group, self._members = None, []

    def _open(self, common: dict[str, Any]) -> Any:
        # vLLM's own, so that both ends speak the same; only here, because the trainer may well have none of its CUDA.
        from vllm.distributed.weight_transfer.nccl_common import stateless_init_process_group

        address, port, size = common["master_address"], common["master_port"], common["world_size"]
        return stateless_init_process_group(address, port, 0, size, self._device)

    def send(self, weights: Weights, servers: Sequence[Server]) -> list[Server]:
        """All of them took the weights. Raises BrokenTransfer: the loss of one leaves the others without."""
        try:
            if missing := [server for server in self._members if server not in servers]:
                raise BrokenTransfer("a server failed before it was its turn", missing)
            tensors = [tensor.to(self._device).contiguous() for _, tensor in weights]
            update = {
                "names": [name for name, _ in weights],
                "dtype_names": [dtype_name(tensor.dtype) for tensor in tensors],
                "shapes": [list(tensor.shape) for tensor in tensors],
            }
            taking = {server: begin(server.post, "/update_weights", {"update_info": update}) for server in servers}
            settle(begin(self._broadcast, self._group, tensors), taking)
        except BrokenTransfer:
            self._leave()
            raise
        return list(servers)

    def _broadcast(self, group: Any, tensors: Sequence[torch.Tensor]) -> None:
        """On a stream of its own: one that hangs holds up nothing else. On this group, whatever comes after it."""
        with torch.cuda.device(self._device):
            torch.cuda.current_stream().synchronize()  # until the tensors are there
            stream = torch.cuda.Stream()
            for tensor in tensors:
                group.broadcast(tensor, src=0, stream=stream)
            stream.synchronize()


Channel = FilesChannel | NcclChannel


def begin(function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
    """In a thread that does not hold up the process's end, as a pool's does: NCCL waits forever for who is gone."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # belongs to who waits for the future
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def settle(own: "Future[Any]", theirs: "Mapping[Server, Future[Any]]") -> None:
    """Raises BrokenTransfer as soon as one of them fails, whatever the others do, or after CONTROL_TIMEOUT_S."""
    done, waiting = wait([own, *theirs.values()], timeout=CONTROL_TIMEOUT_S, return_when=FIRST_EXCEPTION)
    failed = {future: error for future in done if (error := future.exception()) is not None}
    if not failed and not waiting:
        return
    error = next(iter(failed.values()), TimeoutError(f"not done in {CONTROL_TIMEOUT_S:g} s"))
    reason = in_one_line(error) if isinstance(error, httpx.HTTPError) else repr(error)
    # Where no server says that it failed, whoever has not ended may be it.
    raise BrokenTransfer(reason, [s for s, f in theirs.items() if f in failed] or list(theirs))


def own_address(servers: Sequence[Server]) -> str:
    """The address of this machine that all of the servers' machines reach: not loopback, where one is elsewhere."""
    found = []
    for parts in (urlsplit(server.url) for server in servers):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
            probe.connect((parts.hostname or "", parts.port or 80))
            found.append(str(probe.getsockname()[0]))
    return next((address for address in found if not address.startswith("127.")), found[0])
