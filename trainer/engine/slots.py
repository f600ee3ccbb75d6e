"""The key-value memory of the CPU's engine: one slot a running completion, for any Hugging Face causal model.

Registered in transformers as the attention named `slots`. One forward pass takes one token of every running completion
and, behind them in the same row, whole prompts that join. Nothing is filled up, and completions that end make room.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

FIRST_CAPACITY = 64
"""Tokens a slot holds at first; doubled whenever that is too few."""


class Slots:
    """Keys and values of the running completions. They always lie in the first slots: the last moves into a gap."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._lengths: list[int] = []
        """Tokens in the slot of each running completion."""
        self._joining: list[tuple[slice, slice]] = []
        """Of this pass: where a prompt lies in the row, and the slots that get it."""
        self._num_steps = 0
        """Of this pass: completions that take a step."""
        self._mask = torch.empty(0)
        """Of this pass: [steps, 1, 1, longest], added to the scores."""
        self._places = (torch.empty(0), torch.empty(0))
        """Of this pass: slots of the completions that take a step, and where in them its token goes."""
        self._layers: dict[int, torch.Tensor] = {}
        """By layer: keys and values, [2, slots, kv_heads, capacity, head_dim]."""

    @torch.inference_mode()
    def advance(self, token_ids: Sequence[int], prompts: Sequence[tuple[Sequence[int], int]]) -> torch.Tensor:
        """Append a token to each running completion; each prompt joins, with its number of completions behind the rest.

        Returns the logits of everybody's next token, [running, V].
        """
        ids, positions = list(token_ids), list(self._lengths)
        self._num_steps, self._joining = len(ids), []
        self._lengths = [length + 1 for length in self._lengths]
        last = list(range(len(ids)))
        for prompt_ids, copies in prompts:
            row = slice(len(ids), len(ids) + len(prompt_ids))
            self._joining.append((row, slice(len(self._lengths), len(self._lengths) + copies)))
            ids += prompt_ids
            positions += range(len(prompt_ids))
            last += [len(ids) - 1] * copies
            self._lengths += [len(prompt_ids)] * copies
        device = self._model.device
        lengths = torch.tensor(self._lengths[: self._num_steps], dtype=torch.int64)
        beyond = torch.arange(int(lengths.max()) if len(lengths) else 0) >= lengths[:, None]
        mask = torch.zeros(beyond.shape, dtype=self._model.dtype).masked_fill_(beyond, float("-inf"))
        self._mask = mask[:, None, None].to(device)
        self._places = torch.arange(self._num_steps, device=device), (lengths - 1).to(device)
        output = self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=torch.tensor(last, device=device),
            slots=self,
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    @torch.inference_mode()
    def keep(self, alive: Sequence[int]) -> list[int]:
        """Free all slots but those of the running completions `alive`; returns which of them is now in which slot."""
        moved = [i for i in alive if i >= len(alive)]
        gaps = sorted(set(range(len(alive))) - set(alive))
        order = list(range(len(alive)))
        for gap, source in zip(gaps, moved, strict=True):
            order[gap] = source
        if gaps:
            longest = max(self._lengths[i] for i in moved)
            for memory in self._layers.values():
                memory[:, gaps, :, :longest] = memory[:, moved, :, :longest]
        self._lengths = [self._lengths[i] for i in order]
        return order

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """query [heads, T, head_dim]; key, value [kv_heads, T, head_dim] -> [T, heads, head_dim]; remembers both."""
        memory = self._memory(layer, key)
        steps, longest = self._num_steps, self._mask.shape[-1]
        outputs = []
        if steps:
            slots, at = self._places
            memory[0, slots, :, at] = key[:, :steps].transpose(0, 1)
            memory[1, slots, :, at] = value[:, :steps].transpose(0, 1)
            keys, values = memory[:, :steps, :, :longest]
            # Heads that share keys are the rows of one product.
            rows = query[:, :steps].transpose(0, 1).unflatten(1, (key.shape[0], -1))
            mask = self._mask.expand(-1, -1, rows.shape[2], -1)
            outputs.append(scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale).flatten(1, 2))
        for row, slots_of_prompt in self._joining:
            q, k, v = query[None, :, row], key[None, :, row], value[None, :, row]
            memory[0, slots_of_prompt, :, : k.shape[2]] = k
            memory[1, slots_of_prompt, :, : v.shape[2]] = v
            outputs.append(causal(q, k, v, scale)[0].transpose(0, 1))
        return torch.cat(outputs)

    def _memory(self, layer: int, key: torch.Tensor) -> torch.Tensor:
        """The layer's memory, made larger where it must be: twice as long, so that copying stays rare."""
        memory = self._layers.get(layer, key.new_empty(2, 0, key.shape[0], FIRST_CAPACITY, key.shape[2]))
        num_slots, capacity = max(memory.shape[1], len(self._lengths)), memory.shape[3]
        while capacity < max(self._lengths):
            capacity *= 2
        if (num_slots, capacity) != (memory.shape[1], memory.shape[3]):
            larger = memory.new_zeros(2, num_slots, key.shape[0], capacity, key.shape[2])
            larger[:, : memory.shape[1], :, : memory.shape[3]] = memory
            memory = larger
        self._layers[layer] = memory
        return memory


def causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
    """Every token sees itself and those before it; all [rows, heads, T, head_dim]."""
    gqa = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=gqa)


def slots_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    slots: Slots | None = None,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """query [rows, heads, T, head_dim] -> [rows, T, heads, head_dim]; without slots the sequences stand alone."""
    if slots is None:
        return causal(query, key, value, scaling).transpose(1, 2), None
    layer: int = module.layer_idx  # type: ignore[assignment]
    return slots.attend(layer, query[0], key[0], value[0], scaling)[None], None


AttentionInterface.register("slots", slots_attention)
