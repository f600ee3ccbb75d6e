"""Parameters over ranks: FSDP2, with masters in float32 where the policy computes in bfloat16."""

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


def shard(policy: Policy, ranks: Ranks, compute_dtype: torch.dtype, offload: bool = False) -> None:
    """Split every parameter over all ranks; layers are put together when they are needed and split again after.

    `compute_dtype`: what layers compute in; gradients are added up over ranks in float32 at least. `offload`: shards
    stay in host memory. Policies of the same architecture are split alike, so one is copied to another shard by shard.
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


def sync_gradients(policy: Policy, wanted: bool) -> None:
    """Whether the next backward pass adds gradients up over ranks; wanted of the last microbatch only."""
    if isinstance(policy, FSDPModule):
        policy.set_requires_gradient_sync(wanted)
