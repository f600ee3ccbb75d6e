"""Our loss against trl's GRPOTrainer on the same log-probabilities, where the definitions agree.

trl is no dependency: without it the test is skipped. Seen to agree with trl 1.16.0 (LAB_LOG.md).
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import LossConfig
from trainer.loss import GlobalCounts, LossInputs, policy_loss

NUM_SEQUENCES, MAX_LENGTH = 8, 12

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prorl_v1": ({"loss_type": "dapo", "epsilon_high": 0.4, "beta": 1e-4, "use_bias_correction_kl": False}, {}),
    "strong_kl": (
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.5, "use_bias_correction_kl": False},
        {"clip_high": 0.28, "kl_coef": 0.5},
    ),
    "unbiased_kl": (
        {"loss_type": "dapo", "epsilon_high": 0.4, "beta": 0.5},
        {"kl_coef": 0.5, "kl_unbiased": True},
    ),
    "grpo": (
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
        {"clip_high": 0.2, "kl_coef": 0.04, "normalizer": "sequence"},
    ),
    "dr_grpo": (
        {"loss_type": "dr_grpo", "beta": 0.0},
        {"clip_high": 0.2, "kl_coef": 0.0, "normalizer": "constant", "constant_length": MAX_LENGTH},
    ),
}


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    """Padded, as trl has it."""
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_SEQUENCES, MAX_LENGTH)
    old = -3 * torch.rand(shape, generator=generator, dtype=torch.float64) - 0.1
    lengths = torch.randint(1, MAX_LENGTH + 1, (NUM_SEQUENCES, 1), generator=generator)
    return {
        "policy": old + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64),
        "old": old,
        "ref": old + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64),
        "advantages": torch.randn(NUM_SEQUENCES, generator=generator, dtype=torch.float64),
        "mask": (torch.arange(MAX_LENGTH) < lengths).long(),
    }


def trl_loss(batch: dict[str, torch.Tensor], settings: dict[str, Any], folder: Path) -> tuple[float, torch.Tensor]:
    """trl's own `_compute_loss`, with the model's forward pass replaced by given log-probabilities."""
    trl = pytest.importorskip("trl")
    import datasets
    import transformers
    from tokenizers import Tokenizer, models

    words = {"<pad>": 0, "<eos>": 1, "a": 2, "b": 3}
    plain = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = transformers.Qwen2Config(vocab_size=4, num_key_value_heads=1, **sizes)
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)  # trl loads its reference from the model's folder
    model = transformers.Qwen2ForCausalLM.from_pretrained(folder)
    arguments = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_completion_length=MAX_LENGTH,
        per_device_train_batch_size=NUM_SEQUENCES,
        num_generations=NUM_SEQUENCES,
        **settings,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * NUM_SEQUENCES}),
        processing_class=tokenizer,
    )
    policy = batch["policy"].clone().requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (policy, torch.zeros_like(policy), None)
    trainer.current_gradient_accumulation_steps = 1
    prompts = torch.zeros(NUM_SEQUENCES, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": torch.zeros_like(batch["mask"]),
        "completion_mask": batch["mask"],
        "advantages": batch["advantages"],
        "old_per_token_logps": batch["old"],
        "ref_per_token_logps": batch["ref"],
        "num_items_in_batch": batch["mask"].sum(),
    }
    loss = trainer._compute_loss(model.train(), inputs)
    loss.backward()
    assert policy.grad is not None
    return loss.item(), policy.grad


def our_loss(batch: dict[str, torch.Tensor], settings: dict[str, Any]) -> tuple[float, torch.Tensor]:
    """The same tokens packed in one row; the gradient comes back padded."""
    policy = batch["policy"].clone().requires_grad_()
    real = batch["mask"].bool()
    rows = torch.arange(NUM_SEQUENCES)[:, None].expand_as(real)
    inputs = LossInputs(
        policy_logprobs=policy[real],
        old_logprobs=batch["old"][real],
        rollout_logprobs=batch["old"][real],
        ref_logprobs=batch["ref"][real],
        entropy=torch.zeros(int(real.sum())),
        advantages=batch["advantages"][rows[real]],
        loss_mask=torch.ones(int(real.sum()), dtype=torch.bool),
        sequence_ids=rows[real],
    )
    loss, _ = policy_loss(inputs, GlobalCounts(int(real.sum()), NUM_SEQUENCES), LossConfig.model_validate(settings))
    loss.backward()
    assert policy.grad is not None
    return loss.item(), policy.grad


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_equal_trl(name: str, batch: dict[str, torch.Tensor], tmp_path: Path) -> None:
    theirs, ours = CASES[name]
    expected, expected_gradient = trl_loss(batch, {"epsilon": 0.2, **theirs}, tmp_path)
    loss, gradient = our_loss(batch, ours)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert gradient.flatten().tolist() == pytest.approx(expected_gradient.flatten().tolist(), rel=1e-12, abs=1e-18)
