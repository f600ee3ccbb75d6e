"""Opening a run directory: a new run, or the continuation of the one in it."""

import hashlib
import json
import logging
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from transformers import PreTrainedTokenizerBase

from trainer.checkpoint import Checkpoint, Checkpoints
from trainer.demo import make_demo_model
from trainer.engine.choice import make_engine
from trainer.errors import CheckpointError, ConfigError
from trainer.files import finish_replacing, folder_atomically
from trainer.jsonl import read_jsonl, write_atomically
from trainer.metrics import METRICS_FILE, MetricsWriter
from trainer.parallel import Ranks
from trainer.policy import Policy, load_model, load_tokenizer
from trainer.prompts import PromptSource, Sampler, encode_prompt, hold_out, load_source
from trainer.reward import RewardClient, Scorer
from trainer.rollouts import Collector
from trainer.run import Run
from trainer.run_config import ModelConfig, RunConfig, SourceConfig
from trainer.sharding import checkpoint_activations, compile_layers, shard
from trainer.stage import is_below
from trainer.state import RunState
from trainer.types import Prompt
from trainer.update import make_optimizer
from trainer.weight_sync import Probe

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.toml"
NUM_PROBES = 8
SYNC_TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""With `engine.sync_tolerance` unset. A logit of 20 in bfloat16 is rounded by up to 0.06, and layers add theirs."""
FIXED = ("seed", "model.path", "model.demo", "model.dtype", "model.compute_dtype")
"""Keys that a resumed run cannot change."""


@dataclass(frozen=True)
class Data:
    """All prompts of a run, with their tokens."""

    training: dict[str, list[Prompt]]
    validation: dict[str, list[Prompt]]

    def digest(self) -> str:
        """Changes with any prompt, the order, the tokenizer or the chat template."""
        hasher = hashlib.sha256()
        for domains in (self.training, self.validation):
            for name in sorted(domains):
                for prompt in domains[name]:
                    line = [prompt.id, prompt.token_ids, dict(prompt.task)]
                    hasher.update(json.dumps(line, sort_keys=True).encode())
        return hasher.hexdigest()


def open_run(config: RunConfig, client: RewardClient, sample: Sampler, ranks: Ranks) -> Run:
    """A run ready for its next step; a new one has its first reference stored, but no checkpoint yet.

    Raises ConfigError for a config that cannot be run, CheckpointError for a run directory that cannot be continued.
    """
    use_cpu_well(config)
    checkpoints = Checkpoints(config.run_dir, config.checkpoint.keep, ranks)
    changes, checkpoint = ranks.on_main(lambda: (changes_of(config), latest(config, checkpoints)))
    training, validation = ranks.main_first(lambda: load_prompts(config, sample))
    folder = checkpoint.policy_folder if checkpoint else ranks.on_main(lambda: first_model(config, training))
    tokenizer = load_tokenizer(folder)
    longest = config.sampling.max_prompt_tokens
    data = Data(tokenize(training, tokenizer, longest), tokenize(validation, tokenizer, longest))
    run = assemble(config, folder, tokenizer, data, checkpoints, checkpoint, client, ranks)
    if checkpoint:
        try:
            run.load_checkpoint(checkpoint)
        except BaseException:
            run.close()
            raise
        over = run.state.step >= config.num_steps
        run.note("resume", "again" if over else "prolonged" if run.finished else "killed", changes=changes)
    # Only now: a config that could not be opened binds nobody, and its changes are news until the ledger has them.
    if ranks.is_main:
        write_atomically(config.run_dir / CONFIG_FILE, tomli_w.dumps(config.as_toml()))
    return run


def latest(config: RunConfig, checkpoints: Checkpoints) -> Checkpoint | None:
    """The checkpoint to go on from. Raises CheckpointError where there was one and is no more."""
    for folder in ("checkpoints", "eras"):
        finish_replacing(config.run_dir / folder)
    checkpoint = checkpoints.load_latest()
    if checkpoint is None and read_jsonl(config.run_dir / METRICS_FILE):
        raise CheckpointError(f"{config.run_dir} has metrics but no checkpoint to go on from; use another run_dir")
    return checkpoint


def assemble(
    config: RunConfig,
    folder: Path | str,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    checkpoints: Checkpoints,
    checkpoint: Checkpoint | None,
    client: RewardClient,
    ranks: Ranks,
) -> Run:
    """The parts of a run, all with the weights in `folder`."""
    policy, reference = make_policies(config, folder, ranks)
    engine = make_engine(config, folder, tokenizer, policy, compute_dtype(config.model, ranks), ranks)
    scorer = Scorer(client, config.reward, config.run_dir.name)
    first = [p.token_ids for prompts in data.training.values() for p in prompts[:NUM_PROBES]]
    return Run(
        config=config,
        ranks=ranks,
        policy=policy,
        reference=reference,
        tokenizer=tokenizer,
        optimizer=make_optimizer(policy.parameters(), config.optimizer),
        engine=engine,
        scorer=scorer,
        collector=Collector(PromptSource(data.training, config.seed), engine, scorer, ranks),
        validation_sets=data.validation,
        probe=Probe.of(first[:NUM_PROBES], len(tokenizer)),
        data_hash=data.digest(),
        checkpoints=checkpoints,
        metrics=MetricsWriter(config.run_dir, checkpoint.state.step if checkpoint else -1) if ranks.is_main else None,
        state=RunState(),
        sync_tolerance=config.engine.sync_tolerance or SYNC_TOLERANCES[compute_dtype(config.model, ranks)],
    )


def make_policies(config: RunConfig, folder: Path | str, ranks: Ranks) -> tuple[Policy, Policy]:
    """The policy and its frozen reference, split alike over the ranks; on one CPU in one piece."""
    weights, compute = getattr(torch, config.model.dtype), compute_dtype(config.model, ranks)
    policy, reference = (Policy(load_model(folder, d), config.sampling.temperature) for d in (weights, compute))
    reference.requires_grad_(False)
    if config.model.compile:
        compile_layers(policy)
        compile_layers(reference)
    if config.model.checkpoint_activations:
        checkpoint_activations(policy.model)
    if ranks.size > 1 or ranks.device.type == "cuda":
        keep_whole = config.model.keep_whole
        shard(policy, ranks, compute, keep_whole=keep_whole)
        shard(reference, ranks, compute, keep_whole=keep_whole, offload=config.model.offload_reference)
    elif compute != weights:
        raise ConfigError("model.compute_dtype: on one CPU it is that of the weights")
    return policy, reference


def compute_dtype(config: ModelConfig, ranks: Ranks) -> torch.dtype:
    name = config.compute_dtype
    if name == "auto":
        name = "bfloat16" if ranks.device.type == "cuda" else config.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def use_cpu_well(config: RunConfig) -> None:
    """Threads as configured, and on the CPU only kernels that give the same bits every time."""
    if config.model.num_threads:
        torch.set_num_threads(config.model.num_threads)
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    # Torch would also fill all memory it allocates, for the sake of kernels that read what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def changes_of(config: RunConfig) -> dict[str, Any]:
    """What changed since the run was last opened. Raises ConfigError for a fixed key."""
    path = config.run_dir / CONFIG_FILE
    if not path.exists():
        return {}
    before, now = flatten(tomllib.loads(path.read_text(encoding="utf-8"))), flatten(config.as_toml())
    changes = {key: now.get(key) for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)}
    if fixed := [key for key in changes if is_below(key, FIXED)]:
        raise ConfigError(f"{config.run_dir} was started with another {fixed[0]}; use another run_dir")
    return changes


def flatten(source: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"loss": {"kl_coef": 0.1}} -> {"loss.kl_coef": 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in source.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def load_prompts(config: RunConfig, sample: Sampler) -> tuple[dict[str, list[Prompt]], dict[str, list[Prompt]]]:
    """Training and validation prompts by domain; what the validation has, the training has not."""

    def load(sources: Sequence[SourceConfig], part: str) -> dict[str, list[Prompt]]:
        cache = config.run_dir / "prompts" / part
        return {source.name: load_source(source, sample, cache, part) for source in sources}

    validation = load(config.validation.sources, "validation") if config.validation else {}
    held = [prompt for prompts in validation.values() for prompt in prompts]
    training = {name: hold_out(prompts, held) for name, prompts in load(config.data.sources, "training").items()}
    return training, validation


def tokenize(
    domains: Mapping[str, Sequence[Prompt]], tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> dict[str, list[Prompt]]:
    """Prompts longer than `max_tokens` leave, and are counted. Raises ConfigError where a domain has none left."""
    kept = {}
    for name, prompts in domains.items():
        encoded = [replace(prompt, token_ids=encode_prompt(tokenizer, prompt)) for prompt in prompts]
        kept[name] = [prompt for prompt in encoded if len(prompt.token_ids) <= max_tokens]
        if not kept[name]:
            raise ConfigError(f"data source {name}: no prompt is left to use")
        if len(kept[name]) < len(prompts):
            logger.warning("%s: %d prompts are too long", name, len(prompts) - len(kept[name]))
    return kept


def first_model(config: RunConfig, training: Mapping[str, Sequence[Prompt]]) -> Path | str:
    """Folder or hub name of the model to begin with; the demo's is made now."""
    if config.model.demo is None:
        assert config.model.path is not None  # one of the two, says the config
        return config.model.path
    folder = config.run_dir / "model"
    if not folder.exists() or not (config.run_dir / CONFIG_FILE).exists():  # else a rest of a run never opened
        with folder_atomically(folder) as unfinished:
            make_demo_model([p for prompts in training.values() for p in prompts], config.model.demo, unfinished)
    return folder
