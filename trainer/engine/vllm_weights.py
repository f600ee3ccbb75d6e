"""New weights for vLLM servers by their weight-transfer interface: pause, start, chunk after chunk, finish, resume."""

import shutil
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import torch
from safetensors.torch import save_file

from trainer.engine.vllm_request import dtype_name
from trainer.engine.vllm_servers import Server, in_one_line, on_all
from trainer.errors import EngineError

CHUNK_BYTES = 2**30
"""Weights under way at once: few requests a push, and memory for that much beside the model."""
Weights = list[tuple[str, torch.Tensor]]


class Channel(Protocol):
    """How bytes get into a server."""

    backend: str

    def join(self, servers: Sequence[Server]) -> None:
        """Connect to these and to no others. Raises EngineError."""
        ...

    def send(self, weights: Weights, servers: Sequence[Server]) -> list[Server]:
        """The servers that took them. Raises EngineError where the loss of one leaves the others without."""
        ...


def transfer(
    weights: Iterable[tuple[str, torch.Tensor]], servers: Sequence[Server], channel: Channel, name: str
) -> list[Server]:
    """Servers that have the weights now and say so by `name` with every completion; requests under way wait."""
    servers = on_all(servers, lambda s: s.post("/pause?mode=keep"))
    channel.join(servers)
    servers = on_all(servers, start)
    for chunk in chunks(weights):
        servers = channel.send(chunk, servers)
    servers = on_all(servers, lambda s: s.post("/finish_weight_update", {"weight_version": name}))
    # Without reset_running_requests nothing is reset while a request waits, and old keys and values would be used on.
    servers = on_all(servers, lambda s: s.post("/reset_prefix_cache?reset_running_requests=true"))
    servers = on_all(servers, lambda s: s.post("/resume"))
    for server in servers:
        server.weights = name
    return servers


def start(server: Server) -> None:
    """Raises httpx.HTTPError."""
    try:
        server.post("/start_weight_update")
    except httpx.HTTPStatusError:  # a trainer that died in a transfer left it open
        server.post("/finish_weight_update")
        server.post("/start_weight_update")


def chunks(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[Weights]:
    """Tensors in their order, up to `CHUNK_BYTES` together, one at least."""
    chunk: Weights = []
    size = 0
    for name, tensor in weights:
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append((name, tensor.detach()))
        size += tensor.nbytes
    if chunk:
        yield chunk


class FilesChannel:
    """Through files on this machine, in memory where it has a place for them; for servers on a CPU."""

    backend = "files"

    def join(self, servers: Sequence[Server]) -> None:
        """Nothing to connect."""

    def send(self, weights: Weights, servers: Sequence[Server]) -> list[Server]:
        folder = Path(tempfile.mkdtemp(prefix="weights-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        try:
            path = folder / "chunk.safetensors"
            save_file({name: tensor.clone() for name, tensor in weights}, path)  # files know no shared tensors
            return on_all(servers, lambda s: s.post("/update_weights", {"update_info": {"path": str(path)}}))
        finally:
            shutil.rmtree(folder)


class NcclChannel:
    """One broadcast from this process to all workers of all servers. Rank 0 of the transfer's group is the trainer."""

    backend = "nccl"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._members: list[Server] = []
        self._group: Any = None

    def join(self, servers: Sequence[Server]) -> None:
        # A server that was started anew is no member any more, though its address is the same.
        if self._group is not None and self._members == list(servers) and all(s.weights for s in servers):
            return
        self._leave()
        try:
            sizes = [int(server.get("/get_world_size")["world_size"]) for server in servers]
        except httpx.HTTPError as error:
            raise EngineError(f"a vLLM server was lost before it was given weights: {in_one_line(error)}") from error
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        common = {"master_address": address_towards(servers[0].url), "master_port": port, "packed": False}
        common["world_size"] = 1 + sum(sizes)
        with ThreadPoolExecutor(len(servers)) as pool:
            joining = [
                pool.submit(
                    server.post,
                    "/init_weight_transfer_engine",
                    {"init_info": common | {"rank_offset": 1 + sum(sizes[:i])}},
                )
                for i, server in enumerate(servers)
            ]
            self._group = self._open(common)
            pool.shutdown()
            raise_first(joining)
        self._members = list(servers)

    def _open(self, common: dict[str, Any]) -> Any:
        # vLLM's own, so that both ends speak the same; only here, because the trainer may well have none of its CUDA.
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup

        group = StatelessProcessGroup.create(
            host=common["master_address"], port=common["master_port"], rank=0, world_size=common["world_size"]
        )
        return PyNcclCommunicator(group, device=self._device)

    def _leave(self) -> None:
        if self._group is not None:
            on_all([s for s in self._members if s.weights], lambda s: s.post("/shutdown_weight_transfer_engine"))
            self._group.destroy()
            self._group = None

    def send(self, weights: Weights, servers: Sequence[Server]) -> list[Server]:
        if list(servers) != self._members:
            raise EngineError("a vLLM server was lost while it was given weights")
        tensors = [tensor.to(self._device).contiguous() for _, tensor in weights]
        update = {
            "names": [name for name, _ in weights],
            "dtype_names": [dtype_name(tensor.dtype) for tensor in tensors],
            "shapes": [list(tensor.shape) for tensor in tensors],
        }
        pool = ThreadPoolExecutor(len(servers))
        taking = [pool.submit(server.post, "/update_weights", {"update_info": update}) for server in servers]
        for tensor in tensors:
            self._group.broadcast(tensor, src=0)
        sent = torch.cuda.Event()
        sent.record()
        while not sent.query():  # a broadcast waits forever for one that is gone: its request tells
            raise_first(taking)
            time.sleep(0.001)
        pool.shutdown()
        raise_first(taking)
        return list(servers)


def raise_first(futures: Sequence["Future[None]"]) -> None:
    """Raises EngineError if one of them has failed."""
    for future in futures:
        if future.done() and (error := future.exception()) is not None:
            reason = in_one_line(error) if isinstance(error, httpx.HTTPError) else repr(error)
            raise EngineError(f"a vLLM server did not take its weights: {reason}")


def address_towards(url: str) -> str:
    """The address of this machine that the server's machine reaches."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((parts.hostname or "", parts.port or 80))
        return str(probe.getsockname()[0])
