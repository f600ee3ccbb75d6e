"""vLLM in the trainer's process: one engine a rank, awake while the policy does not train."""

import os
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import torch
from torch import distributed

from trainer.engine.config import EngineConfig
from trainer.engine.flight import Flight, Reader, Ticket
from trainer.engine.protocol import Engine, RolloutRequest, Sampling
from trainer.engine.vllm_request import PROBE_PARAMS, dtype_name, sampling_params
from trainer.errors import WeightSyncError
from trainer.types import RolloutGroup

# Before vLLM is imported: its engine runs in this process, and on a CPU leaves the threads to whom they belong.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.sampling_params import RequestOutputKind

from trainer.engine.vllm_worker import load_weights


class VllmEngine(Engine):
    """Weights are handed over in memory. On a CPU nothing sleeps."""

    def __init__(
        self, model: str, reader: Reader, config: EngineConfig, max_model_len: int, dtype: torch.dtype
    ) -> None:
        """`model`: folder or hub name; `max_model_len`: tokens of the longest prompt with its completion."""
        on_gpu = torch.cuda.is_available()
        self._group_is_ours = distributed.is_initialized()
        ranks = distributed.get_world_size() if self._group_is_ours else 1
        set_num_threads = torch.set_num_threads  # vLLM's CPU worker takes it away
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
                dtype=dtype_name(dtype),
                max_model_len=max_model_len,
                max_num_seqs=config.max_rows,
                kv_cache_memory_bytes=config.kv_cache_mb << 20,
                gpu_memory_utilization=0.01,  # only compared with what is free: the line above decides
                logprobs_mode="processed_logprobs",
                enable_prefix_caching=True,
                enable_sleep_mode=on_gpu,
                enforce_eager=not on_gpu,  # compiling for a CPU takes longer than it gains
                distributed_executor_backend="external_launcher" if ranks > 1 else None,
                generation_config="vllm",
                disable_log_stats=True,
            )
        )
        torch.set_num_threads = set_num_threads
        self._reader = reader
        self._max_rows = config.max_rows
        self._policy_version = 0
        self._num_requests = 0
        self._ended: dict[str, Any] = {}
        """By name, requests whose answers nobody took yet."""
        self._can_sleep, self._asleep = on_gpu, False

    def rollout(
        self, requests: Iterable[RolloutRequest | None], sampling: Sampling
    ) -> Generator[RolloutGroup, None, None]:
        flight = Flight(requests, self._max_rows)
        running: dict[str, Ticket] = {}
        try:
            while True:
                for ticket in flight.take():
                    params = sampling_params(sampling, ticket.seed, self._reader.stop_ids)
                    running[self._ask(ticket.request.prompt.token_ids, params)] = ticket
                if not running:
                    return
                self._step()
                for name in [name for name in self._ended if name in running]:
                    answer = self._ended.pop(name)
                    tokens = answer.outputs[0].token_ids
                    logprobs = [top[t].logprob for top, t in zip(answer.outputs[0].logprobs, tokens, strict=True)]
                    rollout = self._reader.rollout(tokens, logprobs, self._policy_version)
                    if (group := flight.land(running.pop(name), rollout)) is not None:
                        yield group
        finally:
            self._engine.abort_request(list(running))  # of a rollout that nobody wanted to the end
            for name in running:
                self._ended.pop(name, None)

    def push(self, weights: Iterable[tuple[str, torch.Tensor]], policy_version: int) -> None:
        self.wake()  # weights of one asleep lie in memory that is given back
        self._engine.collective_rpc(load_weights, args=(weights,))
        # Without reset_running_requests nothing is reset while a request runs.
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise WeightSyncError("vLLM keeps what it computed with the old weights: its prefix cache was not reset")
        self._policy_version = policy_version

    def fingerprint(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        names = [self._ask(sequence, PROBE_PARAMS) for sequence in sequences]
        while not all(name in self._ended for name in names):
            self._step()
        told = [self._ended.pop(name).prompt_logprobs[1:] for name in names]
        return [
            [top[token].logprob for top, token in zip(tops, sequence[1:], strict=True)]
            for tops, sequence in zip(told, sequences, strict=True)
        ]

    def sleep(self) -> None:
        """Weights go to host memory, the key-value cache goes."""
        if self._can_sleep and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = True

    def wake(self) -> None:
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False

    def close(self) -> None:
        """Under a process group of the trainer's it ends with the process: vLLM's end would take the group along."""
        if not self._group_is_ours:
            self._engine.engine_core.shutdown()

    def _ask(self, prompt_ids: Sequence[int], params: dict[str, Any]) -> str:
        """Returns the request's name."""
        self.wake()
        self._num_requests += 1
        name = str(self._num_requests)
        prompt = {"type": "token", "prompt_token_ids": list(prompt_ids)}
        self._engine.add_request(name, prompt, SamplingParams(**params, output_kind=RequestOutputKind.FINAL_ONLY))
        return name

    def _step(self) -> None:
        """One token of everything that runs, whoever asked for it."""
        self._ended |= {output.request_id: output for output in self._engine.step() if output.finished}
