"""The ranks of a run: one process a device, started by `torchrun`; or this one alone.

All ranks walk through the same loop with the same numbers: what comes from outside (files, the service, the clock) is
read by rank 0 and told to the others, so every rank takes every decision alike. Only rank 0 writes, except for its
share of a checkpoint that each rank writes itself.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore, Store
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.tensor import DTensor

from trainer.errors import TrainerError
from trainer.files import folder_atomically

T = TypeVar("T")
PATIENCE = timedelta(hours=4)
"""Ranks wait for each other this long: others may generate long completions, or rank 0 wait for the service. A rank
that died does not cost it: torchrun ends the others."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def on_main(self, function: Callable[[], T]) -> T:
        """What the function gives on rank 0, on every rank; a TrainerError ends all of them, each with its code."""
        if self.size == 1:
            return function()
        told: list[Any] = [None, None]
        if self.is_main:
            try:
                told[0] = function()
            except TrainerError as error:
                told[1] = error
        distributed.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1] if self.is_main else SystemExit(told[1].exit_code)  # one rank tells the user
        value: T = told[0]
        return value

    def main_first(self, function: Callable[[], T]) -> T:
        """On rank 0 and, once it is done there, on the others, which find the files that it made."""
        kept: list[T] = []
        self.on_main(lambda: kept.append(function()))
        return kept[0] if self.is_main else function()

    def store(self) -> Store:
        """Where the ranks leave something for each other without waiting; torchrun keeps it."""
        return _get_default_store()

    @contextmanager
    def folder(self, folder: Path) -> Iterator[Path]:
        """`folder_atomically` for all ranks: each may write into it, on a file system that all see."""
        if self.is_main:
            with folder_atomically(folder) as unfinished:
                self.gather(unfinished)
                yield unfinished
                self.gather(None)
        else:
            yield self.gather(folder)[0]
            self.gather(None)
        self.gather(None)


ALONE = Ranks()


class RankLog:
    """What the ranks have to say, numbered: all read it in the same order and decide alike, each in its own time."""

    def __init__(self, ranks: Ranks, name: str, in_turn: bool) -> None:
        """`in_turn`: the ranks' words alternate, whoever is quicker; else they are in the order in which they came."""
        self._ranks, self._name, self._in_turn = ranks, name, in_turn
        self._own: dict[int, object] = {}
        """By number, what this rank said."""
        self.num_read = 0
        self.num_own_read = 0

    @property
    def num_said(self) -> int:
        """By this rank."""
        return len(self._own)

    @property
    def is_our_turn(self) -> bool:
        """Whether all wait for this rank."""
        return self._in_turn and self.num_read == self.num_said * self._ranks.size + self._ranks.rank

    @property
    def has_next(self) -> bool:
        """Whether `read` would return at once."""
        if self.num_read in self._own or self._ranks.size == 1:
            return self.num_read in self._own
        return self._ranks.store().check([self._key(self.num_read)])

    def say(self, word: object) -> None:
        number = self.num_said * self._ranks.size + self._ranks.rank
        if self._ranks.size > 1:
            if not self._in_turn:
                number = self._ranks.store().add(self._key("count"), 1) - 1
            self._ranks.store().set(self._key(number), pickle.dumps((self._ranks.rank, word)).hex())
        self._own[number] = word

    def read(self) -> tuple[int, Any]:
        """The next word, waited for, and whose it is."""
        if self.num_read in self._own:
            rank, word = self._ranks.rank, self._own[self.num_read]
            self.num_own_read += 1
        else:
            rank, word = pickle.loads(bytes.fromhex(self._ranks.store().get(self._key(self.num_read)).decode()))
        self.num_read += 1
        return rank, word

    def forget(self) -> None:
        """Once no rank reads any more."""
        if self._ranks.size > 1:
            for key in [*self._own, *(["count"] if self._ranks.is_main else [])]:
                self._ranks.store().delete_key(self._key(key))

    def _key(self, number: object) -> str:
        return f"{self._name}/{number}"


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """The ranks that torchrun's environment names; without it this process alone, which needs a group on a GPU only."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if not torch.cuda.is_available() and size == 1:
        yield ALONE
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=None if "RANK" in os.environ else HashStore(),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    yield Ranks(rank, size, device)
    distributed.destroy_process_group()  # not after an error: other ranks may still be in a collective


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from its shards; every rank must ask for it at the same time."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
