"""A policy split over ranks gives what a policy in one piece gives."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.ranks import on_ranks
from tests.trainer.test_update import samples
from tests.trainer.tiny import tiny_model
from trainer import head
from trainer.batch import build_batches, pack
from trainer.checkpoint import Checkpoints
from trainer.config import LossConfig
from trainer.demo import make_tokenizer
from trainer.parallel import ALONE, Ranks, whole
from trainer.policy import Policy, copy_weights, load_model
from trainer.sharding import checkpoint_activations, compile_layers, shard
from trainer.state import RunState
from trainer.types import Prompt
from trainer.update import update_policy

VOCAB_SIZE = 67
"""Odd, so that ranks get shards of different sizes."""


def policy_of(
    seed: int, ranks: Ranks, dtype: torch.dtype = torch.float64, compute: torch.dtype | None = None, **how: bool
) -> Policy:
    policy = Policy(tiny_model(seed, vocab_size=VOCAB_SIZE), 1.2)
    for p in policy.parameters():  # and not the buffers, as when a model is read
        p.data = p.data.to(dtype)
    if ranks.size > 1:
        shard(policy, ranks, compute or dtype, **how)
    return policy


def updated(ranks: Ranks, loss: LossConfig, num_updates: int, *changes: str) -> dict[str, Any]:
    """Stats and weights after plain gradient descent, in float64: nothing hides behind rounding."""
    keep_whole = "kept whole" in changes
    policy, reference = policy_of(0, ALONE), policy_of(1, ranks, keep_whole=keep_whole)
    if "compiled" in changes:
        compile_layers(policy)
    if "no activations" in changes:
        checkpoint_activations(policy.model)
    if ranks.size > 1:
        shard(policy, ranks, torch.float64, keep_whole=keep_whole)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    batches = build_batches(samples(), num_updates, 20, ranks.rank, ranks.size)
    stats = update_policy(policy, reference, optimizer, batches, loss, 1.0, ranks)
    weights = {name: whole(p.detach()).clone() for name, p in policy.model.named_parameters()}
    return {"means": dict(stats.means), "grad_norm": stats.grad_norm, "weights": weights}


class Communication(TorchDispatchMode):
    """Writes down every call from rank to rank."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


CASES: Mapping[str, tuple[Any, ...]] = {
    "token": (LossConfig(kl_coef=0.1), 2),
    "sequence": (LossConfig(kl_coef=0.1, normalizer="sequence"), 2),
    "constant": (LossConfig(kl_coef=0.0, normalizer="constant", constant_length=7), 1),
    "no activations": (LossConfig(kl_coef=0.1), 2, "no activations"),
    "kept whole": (LossConfig(kl_coef=0.1), 2, "kept whole", "no activations"),
}


def all_updated(ranks: Ranks) -> dict[str, Any]:
    return {name: updated(ranks, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    [found] = on_ranks(1, tmp_path_factory.mktemp("alone"), all_updated)
    return dict(found)


@pytest.fixture(scope="module")
def on_three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(3, tmp_path_factory.mktemp("three"), all_updated)


@pytest.mark.parametrize("name", CASES)
def test_three_ranks_update_as_one(alone: dict[str, Any], on_three: list[dict[str, Any]], name: str) -> None:
    """In float64, but for what the model itself computes in float32: its norms and rotations."""
    for rank in range(3):
        torch.testing.assert_close(on_three[rank][name], alone[name], rtol=1e-6, atol=1e-7)


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    """What one test has compiled, and with what, is none of the other's business."""

    def forget() -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        head._compiled.cache_clear()

    forget()
    yield
    forget()


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.filterwarnings("ignore")  # torch warns of its own compiler
def test_compiled_layers_update_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced only, which is quick; four graphs serve all layers, two the head."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    case = LossConfig(kl_coef=0.0), 1
    expected = updated(ALONE, *case)
    torch.testing.assert_close(updated(ALONE, *case, "compiled"), expected, rtol=1e-6, atol=1e-7)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4 + 2


@pytest.mark.soak
@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_update_alike_on_ranks(tmp_path: Path) -> None:
    """With the C++ compiler, which takes its time."""
    case = LossConfig(kl_coef=0.1), 2, "kept whole", "no activations"
    expected = updated(ALONE, *case)
    for found in on_ranks(2, tmp_path, lambda ranks: updated(ranks, *case, "compiled")):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("keep_whole", "gathers"), [(False, 3 * (3 + 2 * 3 * 2)), (True, 3 * 2)])
def test_communication_of_an_update(tmp_path: Path, keep_whole: bool, gathers: int) -> None:
    """Of two layers and the rest, over two updates of three microbatches. Gradients are added up once an update;
    weights are gathered for each pass, three of old log-probabilities and two a microbatch, kept whole far less."""

    def counted(ranks: Ranks) -> tuple[list[str], int]:
        policy = policy_of(0, ranks, keep_whole=keep_whole)
        batches = build_batches(samples(), 2, 20, ranks.rank, ranks.size)
        with Communication() as communication:
            update_policy(policy, policy, torch.optim.SGD(policy.parameters()), batches, LossConfig(kl_coef=0), 1.0)
        return communication.calls, len(batches[0].microbatches)

    [(calls, microbatches), _] = on_ranks(2, tmp_path, counted)
    assert microbatches == 3
    assert sum("reduce_scatter" in name for name in calls) == 2 * 3
    assert sum("allgather" in name for name in calls) == gathers


@pytest.mark.parametrize("offload", [False, True])
def test_a_reset_is_exact_where_the_policy_computes_in_half_precision(tmp_path: Path, offload: bool) -> None:
    """Masters in float32, the reference stored as it is computed with; not a bit between their log-probabilities."""

    def reset(ranks: Ranks) -> tuple[list[float], list[float], list[float], torch.dtype, int]:
        policy = policy_of(0, ranks, torch.float32, torch.bfloat16)
        reference = policy_of(1, ranks, torch.bfloat16, torch.bfloat16, offload=offload)
        batch = pack(samples()[:4])
        with torch.no_grad():
            before = reference.logprobs(batch).tolist()
            with Communication() as communication:
                copy_weights(policy, reference)
            after = reference.logprobs(batch).tolist()
            own = policy.logprobs(batch).tolist()
        return before, after, own, next(policy.parameters()).dtype, len(communication.calls)

    for before, after, own, masters, communications in on_ranks(2, tmp_path, reset):
        assert before != own
        assert after == own
        assert masters == torch.float32
        assert communications == 0


def test_a_checkpoint_of_two_ranks_is_one_of_any_number(tmp_path: Path) -> None:
    tokenizer = make_tokenizer([Prompt("p", ({"role": "user", "content": "x"},), {}, "words", ())])

    def trained(ranks: Ranks) -> tuple[Policy, torch.optim.AdamW]:
        policy = policy_of(0, ranks, torch.float32)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=0.01)
        batches = build_batches(samples(), 3, 20, ranks.rank, ranks.size)
        update_policy(policy, policy, optimizer, batches, LossConfig(kl_coef=0), 1.0, ranks)
        return policy, optimizer

    def contents(policy: Policy, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        moments = [state[name] for state in optimizer.state.values() for name in ("step", "exp_avg", "exp_avg_sq")]
        return [whole(tensor.detach()).clone() for tensor in [*policy.parameters(), *moments]]

    def restored(ranks: Ranks) -> tuple[list[torch.Tensor], float]:
        policy = policy_of(1, ranks, torch.float32)
        optimizer = torch.optim.AdamW(policy.parameters())
        checkpoints = Checkpoints(tmp_path, 2, ranks)
        checkpoints.restore(checkpoints.load(3), policy, optimizer)
        return contents(policy, optimizer), float(torch.rand(()))

    def save(ranks: Ranks) -> tuple[list[torch.Tensor], float]:
        policy, optimizer = trained(ranks)
        torch.manual_seed(ranks.rank)
        Checkpoints(tmp_path, 2, ranks).save(policy, tokenizer, optimizer, RunState(step=3), {})
        return contents(policy, optimizer), float(torch.rand(()))

    saved = on_ranks(2, tmp_path, save)
    assert saved[0][1] != saved[1][1]
    again = on_ranks(2, tmp_path, restored)
    torch.testing.assert_close(again, saved, rtol=0, atol=0)
    [alone] = on_ranks(1, tmp_path, restored)
    torch.testing.assert_close(alone, saved[0], rtol=0, atol=0)
    assert [found for found, _ in on_ranks(3, tmp_path, restored)][2][0].shape == alone[0][0].shape

    folder = Checkpoints(tmp_path, 2).load(3).policy_folder
    assert len(list(folder.glob("*.safetensors"))) == 2, "each rank wrote its part"
    in_transformers = load_model(folder, torch.float32)
    for ours, theirs in zip(alone[0], in_transformers.parameters(), strict=False):
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=0)


def test_a_mean_over_masked_samples_alone_is_nothing() -> None:
    masked = [replace(s, in_loss=False) for s in samples()[:3]]
    assert build_batches(masked, 1, 20, 1, 2) == ()
