"""The demo's own model: made from a seed, with a small tokenizer, and taught the format by a few supervised examples.

It exists so that the whole loop can be seen to learn on two CPU cores in minutes; nothing else in the trainer knows it.
"""

from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trainer.batch import pack
from trainer.policy import Policy
from trainer.prompts import encode_prompt
from trainer.run_config import DemoModelConfig
from trainer.types import Prompt, TrainingSample

BATCH_SIZE, LEARNING_RATE = 64, 2e-3
"""Of the supervised steps."""
END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_demo_model(prompts: Sequence[Prompt], config: DemoModelConfig, folder: Path) -> None:
    """Write a warmed-up model with its tokenizer to `folder`; the same prompts and config give the same bytes."""
    tokenizer = make_tokenizer(prompts)
    torch.manual_seed(config.seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=-(-len(tokenizer) // 64) * 64,
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.hidden_size // 32,
            num_key_value_heads=config.hidden_size // 64,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    warm_up(model, tokenizer, prompts, config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokenizer(prompts: Sequence[Prompt]) -> PreTrainedTokenizerFast:
    """Bytes, and as single tokens what every prompt of a domain begins and ends with: 70 tokens become 13."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts: dict[str, list[str]] = {}
    for prompt in prompts:
        texts.setdefault(prompt.domain, []).append(prompt.messages[-1]["content"])
    shared = {"<answer>", "</answer>"}
    for same in texts.values():
        shared |= {commonprefix(same), commonprefix([t[::-1] for t in same])[::-1]}  # noqa: RUF071  (of letters, not paths)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in sorted(shared - {""})])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def warm_up(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], config: DemoModelConfig
) -> None:
    """Teach prompt -> `<answer>...</answer>` from the tasks' own answers, in the order of the prompts."""
    policy = Policy(model, temperature=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    examples = [e for e in (_example(tokenizer, prompt) for prompt in prompts) if e is not None]
    for step in range(config.warm_up_steps):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 10)
        first = step * BATCH_SIZE
        batch = pack([examples[i % len(examples)] for i in range(first, first + BATCH_SIZE)])
        loss = -policy.logprobs(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _example(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> TrainingSample | None:
    entry = prompt.task.get("entry")
    if entry is None or entry["answer"] is None:
        return None
    prompt_ids = encode_prompt(tokenizer, prompt)
    token_ids = tokenizer.encode(f"<answer>{entry['answer']}</answer>{END}", add_special_tokens=False)
    return TrainingSample(0, prompt_ids, tuple(token_ids), (0.0,) * len(token_ids), 0.0)
