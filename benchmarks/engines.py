"""The engine of the update: packed against padded rows, and the memory of the pass that computes log-probabilities.

    python benchmarks/engines.py            # both, on one CPU thread, a minute or two
    python benchmarks/engines.py --rounds 9

Packed and padded updates train the same samples with the same loss, on the same model, in turns; what is compared is
CPU seconds (of this process), so other load matters little. Padded is the usual way: sequences in order of arrival,
rectangles of as many sequences as the token budget holds at the longest one's length, prompts and completions filled up
on the right, and the head over every position.
Memory is the peak of this process while one pass runs, above what it held before, read from the kernel.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # in place of this folder, whose trainer.py would hide the package

import torch  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from trainer import head  # noqa: E402
from trainer.batch import build_batches  # noqa: E402
from trainer.config import LossConfig  # noqa: E402
from trainer.loss import GlobalCounts, LossInputs, policy_loss  # noqa: E402
from trainer.policy import Policy  # noqa: E402
from trainer.types import TrainingSample  # noqa: E402
from trainer.update import update_policy  # noqa: E402

TOKENS_PER_MICROBATCH = 4096
LOSS = LossConfig(kl_coef=0.0)


def model_of(vocab_size: int, num_layers: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


def mixed_samples(count: int, vocab_size: int) -> list[TrainingSample]:
    """Prompts of 16 tokens; completions of 16 to 1,024, evenly over the logarithm: many short, some long."""
    rng = random.Random(0)
    made = []
    for i in range(count):
        length = round(2 ** rng.uniform(4, 10))
        prompt, completion = (tuple(rng.randrange(vocab_size) for _ in range(n)) for n in (16, length))
        made.append(TrainingSample(i // 8, prompt, completion, (-6.0,) * length, rng.choice((-1.0, 1.0))))
    return made


def length_of(sample: TrainingSample) -> int:
    return len(sample.prompt_ids) + len(sample.token_ids)


def packed_update(samples: Sequence[TrainingSample], model: Qwen3ForCausalLM) -> float:
    """Mean loss of the tokens; moves nothing."""
    policy = Policy(model, 1.0)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    batches = build_batches(samples, 1, TOKENS_PER_MICROBATCH)
    return update_policy(policy, policy, optimizer, batches, LOSS, 1.0).means["loss"]


def padded_update(samples: Sequence[TrainingSample], model: Qwen3ForCausalLM) -> float:
    """The same loss by rectangles."""
    model.set_attn_implementation("sdpa")
    longest = max(map(length_of, samples))
    counts = GlobalCounts(sum(len(s.token_ids) for s in samples), len(samples))
    rows = max(1, TOKENS_PER_MICROBATCH // longest)
    total = 0.0
    for begin in range(0, len(samples), rows):
        chosen = samples[begin : begin + rows]
        ids, mask = torch.zeros(len(chosen), longest, dtype=torch.int64), torch.zeros(len(chosen), longest)
        for row, sample in enumerate(chosen):
            ids[row, : length_of(sample)] = torch.tensor([*sample.prompt_ids, *sample.token_ids])
            mask[row, len(sample.prompt_ids) - 1 : length_of(sample) - 1] = 1
        # Causal attention cannot see what is filled up on the right, so it needs no mask.
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        logprobs, entropy = head.token_logprobs(logits.flatten(0, 1), ids[:, 1:].flatten(), 1.0)
        trained = mask[:, :-1].flatten().bool()
        sequence_ids = torch.arange(len(chosen)).repeat_interleave(longest - 1)
        advantages = torch.tensor([s.advantage for s in chosen])[sequence_ids]
        inputs = LossInputs(
            policy_logprobs=logprobs,
            old_logprobs=None,
            rollout_logprobs=torch.full_like(advantages, -6.0),
            ref_logprobs=None,
            entropy=entropy,
            advantages=advantages,
            loss_mask=trained,
            sequence_ids=sequence_ids,
        )
        loss, _ = policy_loss(inputs, counts, LOSS)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    model.zero_grad(set_to_none=True)
    return total


def cpu_s(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def compare_updates(rounds: int) -> None:
    samples, model = mixed_samples(32, 1024), model_of(1024, 2).eval()
    tokens = sum(map(length_of, samples))
    longest = max(map(length_of, samples))
    print(f"update: {len(samples)} sequences of {min(map(length_of, samples))} to {longest} tokens, {tokens} in all, ")
    print(f"  {tokens / len(samples) / longest:.0%} of a padded rectangle; microbatches of {TOKENS_PER_MICROBATCH}")
    losses = packed_update(samples, model), padded_update(samples, model)  # also warms up
    assert abs(losses[0] - losses[1]) < 1e-5, losses
    times = [
        (cpu_s(lambda: packed_update(samples, model)), cpu_s(lambda: padded_update(samples, model)))
        for _ in range(rounds)
    ]
    packed, padded = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"  packed {tokens / packed:8.0f} tokens a CPU second")
    print(f"  padded {tokens / padded:8.0f} tokens a CPU second")
    ratios = sorted(b / a for a, b in times)
    print(f"  ratio  {padded / packed:8.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f}; target at least 1.5)")


def peak_mib(call: Callable[[], object]) -> float:
    """Highest resident memory while the call runs, above that before it."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_kib("VmRSS")
    call()
    return (resident_kib("VmHWM") - before) / 1024


def resident_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


def measure_memory() -> None:
    """The head alone: log-probabilities, entropies and their backward pass, of hidden states that are there already."""
    print("head: peak memory of log-probabilities and entropies with their backward pass, width 64, float32")
    print("  vocabulary  tokens  all logits   chunked     whole")
    for vocab_size in (32768, 131072):
        for num_chunks in (1, 2, 4, 8):
            num = num_chunks * head.LOGIT_BUDGET["cpu"] // vocab_size
            chunked = peak_mib(partial(backward, num, vocab_size, head.head_logprobs))
            line = f"  {vocab_size:>10} {num:>7} {4 * num * vocab_size / 2**20:>7.0f} MiB {chunked:>5.0f} MiB"
            if num_chunks <= 2:  # beyond, it does not fit into a small machine
                line += f" {peak_mib(partial(backward, num, vocab_size, whole_logprobs)):>5.0f} MiB"
            print(line, flush=True)


def whole_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return head.token_logprobs(hidden @ weight.T, targets, temperature)


def backward(num: int, vocab_size: int, logprobs_of: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num, 64, generator=generator).requires_grad_()
    weight = (torch.randn(vocab_size, 64, generator=generator) * 0.02).requires_grad_()
    targets = torch.randint(vocab_size, (num,), generator=generator)
    logprobs_of(hidden, weight, targets, 1.2)[0].sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of updates")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare_updates(arguments.rounds)
    measure_memory()


if __name__ == "__main__":
    main()
