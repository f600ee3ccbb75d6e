"""Parameters over ranks: FSDP2, with masters in float32 where the policy computes in bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from trainer.parallel import Ranks
from trainer.policy import Policy


def decoder_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The blocks that Hugging Face says must not be split; none where it says nothing."""
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass. Before `shard`, so that its hooks stay outside."""
    for layer in decoder_layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def compile_layers(policy: Policy) -> None:
    """Kernels made for what lies between the matrix products of layers and head. Before `checkpoint_activations`.

    Attention over packed rows stays as it is. One compilation serves all layers and all lengths.
    """
    for layer in decoder_layers(policy.model):
        layer.forward = torch.compile(layer.forward, dynamic=True)
    policy.compiled = True


def shard(
    policy: Policy, ranks: Ranks, compute_dtype: torch.dtype, *, offload: bool = False, keep_whole: bool = False
) -> None:
    """Split every parameter over all ranks; layers are put together when they are needed and split again after.

    `compute_dtype`: what layers compute in; gradients are added up over ranks in float32 at least. `offload`: shards
    stay in host memory. `keep_whole`: see `kept_whole`. Policies of the same architecture are split alike, so one is
    copied to another shard by shard.
    """
    reduce_dtype = torch.promote_types(compute_dtype, torch.float32)
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    options: dict[str, Any] = {
        "mesh": mesh,
        # The root too: else its weights stay whole after a forward pass, and what reads shards gets something else.
        "reshard_after_forward": True,
        "mp_policy": MixedPrecisionPolicy(compute_dtype, reduce_dtype, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda") if offload else OffloadPolicy(),
    }
    for layer in decoder_layers(policy.model):
        fully_shard(layer, **options)
    fully_shard(policy, **options)
    policy.num_ranks, policy.compute_dtype, policy.compute_device = ranks.size, compute_dtype, ranks.device
    policy.keep_whole = keep_whole


@contextmanager
def kept_whole(*policies: Policy) -> Iterator[None]:
    """Layers once put together stay so until the end: gathered and cast once, not for every pass of every microbatch.

    For passes alone: who reads or changes shards meanwhile meets whole layers.
    """
    modules = [m for policy in policies if policy.keep_whole for m in policy.modules() if isinstance(m, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.set_reshard_after_backward(False, recurse=False)
    yield
    for module in modules:
        module.set_reshard_after_forward(True, recurse=False)
        module.set_reshard_after_backward(True, recurse=False)
        module.reshard()


def sync_gradients(policy: Policy, wanted: bool) -> None:
    """Whether the next backward pass adds gradients up over ranks; wanted of the last microbatch only."""
    if isinstance(policy, FSDPModule):
        policy.set_requires_gradient_sync(wanted)
