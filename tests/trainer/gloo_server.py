"""A stub of a vLLM server that takes weights over gloo as vLLM does over NCCL, in a process of its own, to be killed.

`python -m tests.trainer.gloo_server PORT FATE`: where the file FATE holds the name of a signal, it sends itself that
signal, once, when it is to take its second part of the weights.
"""

import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.distributed import ProcessGroupGloo, TCPStore

from tests.trainer.stub_vllm import StubVllm
from trainer.engine.vllm_weights import NcclChannel

FOREVER = timedelta(hours=1)
LEFT: list[ProcessGroupGloo] = []


def join(common: dict[str, Any], rank: int) -> ProcessGroupGloo:
    size = common["world_size"]
    store = TCPStore(common["master_address"], common["master_port"], size, is_master=rank == 0, timeout=FOREVER)
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = FOREVER
    return ProcessGroupGloo(store, rank, size, options)


class GlooChannel(NcclChannel):
    """The trainer's end: all of NcclChannel but for NCCL."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def _open(self, common: dict[str, Any]) -> Any:
        group = join(common, 0)
        # Gloo waits in `abort` and in its destructor, and lets no other thread go on: what waits is left alone, and
        # ends when the others are gone.
        return SimpleNamespace(broadcast=group.broadcast, destroy=lambda: LEFT.append(group))

    def _broadcast(self, group: Any, tensors: Any) -> None:
        for tensor in tensors:
            group.broadcast(tensor, 0).wait()


class GlooVllm(StubVllm):
    def __init__(self, port: int, fate: Path) -> None:
        self._engine = threading.Lock()
        self._fate, self._parts = fate, 0
        self._received: dict[str, torch.Tensor] = {}
        self._group: ProcessGroupGloo | None = None
        super().__init__(port)
        self.backend = "nccl"

    def work(self, route: str, body: Any) -> None:
        with self._engine:  # so one that hangs answers nothing
            super().work(route, body)
            if route == "/init_weight_transfer_engine":
                self._group = join(body["init_info"], body["init_info"]["rank_offset"])
            elif route == "/shutdown_weight_transfer_engine":
                self._group = None
            elif route == "/start_weight_update":
                self._parts = 0
            elif route == "/update_weights":
                self._take(body["update_info"])

    def _take(self, update: dict[str, Any]) -> None:
        self._parts += 1
        if self._parts == 2 and self._fate.exists():
            name = self._fate.read_text()
            self._fate.unlink()
            os.kill(os.getpid(), signal.Signals[name])
        assert self._group is not None
        for name, dtype, shape in zip(update["names"], update["dtype_names"], update["shapes"], strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            self._group.broadcast(tensor, 0).wait()
            self._received[name] = tensor

    def logprob(self) -> float:
        return -float(sum(tensor.sum() for tensor in self._received.values()))


if __name__ == "__main__":
    GlooVllm(int(sys.argv[1]), Path(sys.argv[2]))
    threading.Event().wait()
