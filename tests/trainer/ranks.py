"""Ranks as forks of this process: what torchrun starts, without importing torch anew in each of them."""

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from trainer.parallel import Ranks, join_ranks


def fork_ranks(num_ranks: int, function: Callable[[int], object]) -> list[int]:
    """Exit codes of the ranks, negative for signals. The first one that fails takes the others with it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = {}
    for rank in range(num_ranks):
        child = os.fork()
        if child == 0:
            _be_rank(rank, num_ranks, store.port, function)
        children[child] = rank
    codes = {}
    while len(codes) < num_ranks:
        child, status = os.wait()
        codes[children[child]] = os.waitstatus_to_exitcode(status)
        if status != 0:
            for other, rank in children.items():
                if rank not in codes:
                    os.kill(other, signal.SIGKILL)
    return [codes[rank] for rank in range(num_ranks)]


def _be_rank(rank: int, num_ranks: int, port: int, function: Callable[[int], object]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    code = 1
    try:
        function(rank)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        os.write(2, f"rank {rank}: {traceback.format_exc()}\n".encode())
    finally:
        os._exit(code)


def on_ranks(num_ranks: int, folder: Path, function: Callable[[Ranks], Any]) -> list[Any]:
    """What the function gives on each of so many joined ranks."""

    def joined(rank: int) -> None:
        with join_ranks() as ranks:
            torch.save(function(ranks), folder / f"rank-{rank}.pt")

    assert fork_ranks(num_ranks, joined) == [0] * num_ranks
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(num_ranks)]
