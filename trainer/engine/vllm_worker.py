"""What runs inside vLLM's workers, in this process or in a server's."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine


def load_weights(worker: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Hugging Face names and shapes; any dtype."""
    worker.reload_weights(weights_iterator=weights)
    repack_head(worker.model_runner.model)


def repack_head(model: torch.nn.Module) -> None:
    """On a CPU the head multiplies with a packed copy, which an update leaves as it was where it is tied.

    Nothing says so: embeddings and checksums are new, log-probabilities are those of an old head with new layers.
    """
    head = getattr(model, "lm_head", None)
    if head is not None and head.weight.device.type == "cpu":
        head.quant_method.process_weights_after_loading(head)


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):
    path: str
    """A safetensors file with some of the weights."""


class FilesTransfer(NCCLWeightTransferEngine):
    """Weights out of files in a folder that trainer and server share; what a CPU has in place of a group to receive in.

    Begins and ends an update as over NCCL.
    """

    update_info_cls = FilesUpdate

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Without the base's wait for an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FilesUpdate) -> None:
        self.model.load_weights(load_file(update_info.path).items())

    def finish_weight_update(self) -> None:
        super().finish_weight_update()
        repack_head(self.model)


WeightTransferEngineFactory.register_engine("files", FilesTransfer)


class WeightReceiver:
    """Named to a server as its worker extension, so that its workers import this module and know `files`."""
