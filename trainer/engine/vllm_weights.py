"""New weights for vLLM servers by their weight-transfer interface: pause, start, chunk after chunk, finish, resume."""

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from pathlib import Path
from typing import Any
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


def transfer(
    weights: Iterable[tuple[str, torch.Tensor]], servers: Sequence[Server], channel: "Channel", name: str
) -> list[Server]:
    """Servers that have the weights now and say so by `name` with every completion; requests under way wait."""
    servers = on_all(servers, lambda s: s.post("/pause?mode=keep"))
    if servers:
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
        """The servers that took them."""
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
        """Connect to these and to no others. Raises EngineError."""
        # A server that was started anew is no member any more, though its address is the same.
        if self._members == list(servers) and all(s.weights and s.weights_it_has() == s.weights for s in servers):
            return
        if self._group is not None:
            self._group.destroy()
        self._group, self._members = None, []
        # They may hold the group of a trainer that died.
        on_all(servers, lambda s: s.post("/shutdown_weight_transfer_engine"))
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        common = {"master_address": own_address(servers), "master_port": port, "packed": False}
        common["world_size"] = 1 + sum(server.num_workers for server in servers)
        joining, rank = [begin(self._open, common)], 1
        for server in servers:
            info = {"init_info": common | {"rank_offset": rank}}
            joining.append(begin(server.post, "/init_weight_transfer_engine", info))
            rank += server.num_workers
        wait_for(joining)
        self._group, self._members = joining[0].result(), list(servers)

    def _open(self, common: dict[str, Any]) -> Any:
        # vLLM's own, so that both ends speak the same; only here, because the trainer may well have none of its CUDA.
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup

        group = StatelessProcessGroup.create(
            host=common["master_address"], port=common["master_port"], rank=0, world_size=common["world_size"]
        )
        return PyNcclCommunicator(group, device=self._device)

    def send(self, weights: Weights, servers: Sequence[Server]) -> list[Server]:
        """All of them took the weights. Raises EngineError: the loss of one leaves the others without."""
        if list(servers) != self._members:
            raise EngineError("a vLLM server was lost while it was given weights")
        tensors = [tensor.to(self._device).contiguous() for _, tensor in weights]
        update = {
            "names": [name for name, _ in weights],
            "dtype_names": [dtype_name(tensor.dtype) for tensor in tensors],
            "shapes": [list(tensor.shape) for tensor in tensors],
        }
        taking = [begin(server.post, "/update_weights", {"update_info": update}) for server in servers]
        wait_for([begin(self._broadcast, tensors), *taking])
        return list(servers)

    def _broadcast(self, tensors: Sequence[torch.Tensor]) -> None:
        torch.cuda.synchronize(self._device)  # this thread has a stream of its own, which does not wait for others
        with torch.cuda.device(self._device):
            for tensor in tensors:
                self._group.broadcast(tensor, src=0, stream=torch.cuda.current_stream())
            torch.cuda.current_stream().synchronize()


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


def wait_for(futures: "Sequence[Future[Any]]") -> None:
    """Raises EngineError as soon as one of them fails, whatever the others do."""
    for future in wait(futures, return_when=FIRST_EXCEPTION).done:
        if (error := future.exception()) is not None:
            reason = in_one_line(error) if isinstance(error, httpx.HTTPError) else repr(error)
            raise EngineError(f"a vLLM server did not take its weights: {reason}")


def own_address(servers: Sequence[Server]) -> str:
    """The address of this machine that all of the servers' machines reach: not loopback, where one is elsewhere."""
    found = []
    for parts in (urlsplit(server.url) for server in servers):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
            probe.connect((parts.hostname or "", parts.port or 80))
            found.append(str(probe.getsockname()[0]))
    return next((address for address in found if not address.startswith("127.")), found[0])
