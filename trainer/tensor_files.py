"""Weights, optimizer and random states as files: written and read by all ranks, loaded by any number of them."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import PreTrainedTokenizerBase

from trainer.files import sync_file
from trainer.parallel import Ranks, whole
from trainer.policy import Policy

WEIGHTS = "model.safetensors"
"""Hugging Face's name for a model in one file; more are numbered and listed in an index of this name."""


def save_policy(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, ranks: Ranks) -> None:
    """A folder that transformers and vLLM load: safetensors, config, tokenizer with its chat template."""
    if ranks.is_main:
        policy.model.config.architectures = [type(policy.model).__name__]
        policy.model.config.save_pretrained(folder)
        if policy.model.generation_config is not None:
            policy.model.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    save_tensors(_tensors(policy), folder, ranks)


def load_policy(policy: Policy, folder: Path) -> None:
    """The tensors stay the same objects, so optimizer and ties hold."""
    load_tensors(_tensors(policy), folder)


def save_optimizer(policy: Policy, optimizer: torch.optim.Optimizer, folder: Path, ranks: Ranks) -> None:
    """AdamW's moments by the names of the weights; of a fresh optimizer nothing, not even the folder."""
    if optimizer.state:
        save_tensors(_moments(policy, optimizer), folder, ranks)


def load_optimizer(policy: Policy, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """The state of AdamW; nothing of its hyperparameters: those are the config's."""
    optimizer.state.clear()
    if not folder.exists():
        return
    for group in optimizer.param_groups:
        for p in group["params"]:
            step = torch.zeros((), dtype=torch.float32, device=p.device if group["fused"] else "cpu")
            moments = {name: torch.zeros_like(p).detach() for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": step, **moments}
    load_tensors(_moments(policy, optimizer), folder)


def save_tensors(tensors: Mapping[str, torch.Tensor], folder: Path, ranks: Ranks) -> None:
    """A tensor is put together by all ranks and kept by one until it is written, each rank an equal part in one file.

    No rank ever holds more than its part and one tensor; and what any number of ranks wrote, transformers reads.
    """
    owners = share_out({name: tensor.numel() for name, tensor in tensors.items()}, ranks.size)
    own = {}
    for name, tensor in tensors.items():
        entire = whole(tensor.detach())
        if owners[name] == ranks.rank:
            own[name] = entire.cpu().contiguous()
    folder.mkdir(exist_ok=True)
    file = folder / file_name(ranks.rank, ranks.size)
    save_file(own, file, metadata={"format": "pt"})
    sync_file(file)
    if ranks.is_main and ranks.size > 1:
        weight_map = {name: file_name(owner, ranks.size) for name, owner in sorted(owners.items())}
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def file_name(rank: int, num_ranks: int) -> str:
    return WEIGHTS if num_ranks == 1 else f"model-{rank + 1:05}-of-{num_ranks:05}.safetensors"


def share_out(sizes: Mapping[str, int], num_ranks: int) -> dict[str, int]:
    """Which rank writes which tensor: the largest first, each to the one that has least."""
    loads, owners = [0] * num_ranks, {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        owners[name] = loads.index(min(loads))
        loads[owners[name]] += sizes[name]
    return owners


def load_tensors(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """In place; each rank reads its slices, whatever the number of ranks that wrote them."""
    with warnings.catch_warnings():  # one process needs no group
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        detached = {name: tensor.detach() for name, tensor in tensors.items()}
        load(detached, storage_reader=HuggingFaceStorageReader(str(folder)))


def rng_states() -> dict[str, torch.Tensor]:
    """Of torch, by device; nothing else in the trainer draws without a seed of its own."""
    gpu = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {}
    return {"cpu": torch.get_rng_state(), **gpu}


def set_rng_states(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _tensors(policy: Policy) -> dict[str, torch.Tensor]:
    """Every tensor once, tied ones under their first name; the buffers that belong to the model's state too."""
    parameters = dict(policy.model.named_parameters())
    tied = dict(policy.model.named_parameters(remove_duplicate=False))
    return parameters | {name: t for name, t in policy.model.state_dict().items() if name not in tied}


def _moments(policy: Policy, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = {p: name for name, p in policy.model.named_parameters()}
    return {f"{key}.{names[p]}": tensor for p, state in optimizer.state.items() for key, tensor in state.items()}
