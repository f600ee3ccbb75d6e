"""vLLM servers as the engine: completions asked of the least busy one, asked again elsewhere when a server is lost."""

import asyncio
import math
import resource
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import httpx
import torch

from trainer.engine.flight import Flight, Reader, Ticket
from trainer.engine.protocol import Engine, RolloutRequest, Sampling
from trainer.engine.vllm_request import PROBE_PARAMS, sampling_params
from trainer.engine.vllm_servers import Server, Servers, healthy, on_all
from trainer.engine.vllm_weights import Channel, give
from trainer.errors import EngineError
from trainer.parallel import Ranks
from trainer.types import Rollout, RolloutGroup

ROUTE = "/inference/v1/generate"
"""Tokens in, tokens out, with the name of the weights they came from."""
POLL_S = 0.05
"""There may be something new to ask for, or nothing more to wait for."""
HEALTH_EVERY_S = 10.0
MAX_BREAKS = 2
"""Connections of one completion: they may break by themselves once or twice."""
MAX_LOSSES = 5
"""Servers lost while they had the same completion, which then is what they die of."""
UNHEALTHY_AFTER = 3
"""Health checks in a row: a server may be late once."""
Weights = Iterable[tuple[str, torch.Tensor]]


class VllmHttpEngine(Engine):
    """Every rank asks all servers, which have their devices for themselves; rank 0 hands out weights."""

    def __init__(self, servers: Servers, channel: Channel, reader: Reader, max_rows: int, ranks: Ranks) -> None:
        self._servers, self._channel, self._reader, self._ranks = servers, channel, reader, ranks
        self._max_rows = max_rows
        self._name, self._policy_version = "", 0
        self._weights: list[tuple[str, torch.Tensor]] = []
        """On rank 0 the newest, on the host: for servers that come back while ranks are busy with other things."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each completion under way is a connection

    def push(self, weights: Weights, policy_version: int) -> None:
        """Raises EngineError where no server is left.

        All ranks put all weights together before any server is asked for anything: none of them waits for a server.
        """
        self._weights.clear()
        for name, tensor in weights:
            if self._ranks.is_main:
                self._weights.append((name, tensor.detach().to("cpu", copy=True)))
        self._name, urls = self._ranks.on_main(self._give)
        self._policy_version = policy_version
        for server in self._servers.all:
            server.weights = self._name if server.url in urls else None

    def _give(self) -> tuple[str, list[str]]:
        name = uuid.uuid4().hex  # not the version: after a rollback it comes again with other weights
        give(self._weights, self._servers, self._channel, name)
        return name, [server.url for server in self._servers.serving()]

    def _serve_again(self) -> None:
        """Where no server is left, wait for one that comes back: with the same weights, under the same name."""
        if self._ranks.is_main:
            give(self._weights, self._servers, self._channel, self._name)
        else:
            self._servers.wait_for(self._name)

    def rollout(
        self, requests: Iterable[RolloutRequest | None], sampling: Sampling
    ) -> Generator[RolloutGroup, None, None]:
        flight = Flight(requests, self._max_rows * max(1, len(self._servers.serving())))
        with _Asking(self._servers, self._read, self._serve_again) as asking:
            while True:
                for ticket in flight.take():
                    params = sampling_params(sampling, ticket.seed, self._reader.stop_ids)
                    asking.begin(
                        ticket, {"token_ids": list(ticket.request.prompt.token_ids), "sampling_params": params}
                    )
                if not flight.num_running:
                    return
                landed = asking.next()
                if landed is not None and (group := flight.land(*landed)) is not None:
                    yield group

    def _read(self, choice: dict[str, Any]) -> Rollout | None:
        """None where tokens are of other weights, or the server cut the completion short."""
        names = {span["version"] for span in choice["weight_versions"]}
        if names != {self._name} or choice["finish_reason"] not in ("stop", "length"):
            return None
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        return self._reader.rollout(choice["token_ids"], logprobs, self._policy_version)

    def fingerprint(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Of every server; at each token the lowest value, so that one which differs from the others shows."""
        return self._ranks.on_main(lambda: self._fingerprint(sequences))

    def _fingerprint(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        found: dict[Server, list[list[float]]] = {}

        def ask(server: Server) -> None:
            told = [probe(server, sequence) for sequence in sequences]
            if server.weights_it_has() == server.weights:
                found[server] = told

        asked = self._servers.serving()
        on_all(asked, ask)
        for server in asked:
            if server not in found:
                self._servers.lose(server, "it does not answer, or has other weights than it was given")
        if not found:
            raise EngineError("no vLLM server is left that has its weights")
        tokens = [zip(*rows, strict=True) for rows in zip(*found.values(), strict=True)]
        return [[min(values, key=lambda v: (not math.isnan(v), v)) for values in row] for row in tokens]

    def close(self) -> None:
        self._servers.close()


def probe(server: Server, sequence: Sequence[int]) -> list[float]:
    """Log-probabilities of all tokens but the first. Raises httpx.HTTPError where the server does not answer."""
    told = server.post(ROUTE, {"token_ids": list(sequence), "sampling_params": PROBE_PARAMS})["prompt_logprobs"]
    return [top[str(token)]["logprob"] for top, token in zip(told[1:], sequence[1:], strict=True)]


class _Asking:
    """The requests of one rollout: hundreds wait at once, and go on while the trainer waits in `next`."""

    def __init__(
        self, servers: Servers, read: Callable[[dict[str, Any]], Rollout | None], serve_again: Callable[[], None]
    ) -> None:
        self._servers, self._read, self._serve_again = servers, read, serve_again
        self._runner = asyncio.Runner()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: asyncio.Queue[tuple[Ticket, Rollout] | Exception] = asyncio.Queue()
        self._homes: dict[int, Server] = {}
        """By group: the server of its completions."""
        # No times: the trainer may be elsewhere meanwhile. Servers that hang are lost by their health.
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(), trust_env=False)

    def __enter__(self) -> Self:
        self._begin(self._watch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        self._runner.run(self._client.aclose())
        self._runner.close()

    def begin(self, ticket: Ticket, body: dict[str, Any]) -> None:
        self._begin(partial(self._complete, ticket, body))

    def next(self) -> tuple[Ticket, Rollout] | None:
        """The next completion that is done, or None after a while without. Raises what went wrong with any."""
        try:
            done = self._runner.run(asyncio.wait_for(self._done.get(), POLL_S))
        except TimeoutError:
            return None
        if isinstance(done, Exception):
            raise done
        return done

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def watched() -> None:
            try:
                await work()
            except Exception as error:  # belongs to who waits in `next`
                self._done.put_nowait(error)

        task = self._runner.get_loop().create_task(watched())
        self._tasks.add(task)  # a loop alone does not keep its tasks
        task.add_done_callback(self._tasks.discard)

    async def _complete(self, ticket: Ticket, body: dict[str, Any]) -> None:
        """From whichever server gives it, with the same seed each time."""
        breaks = losses = 0
        while losses < MAX_LOSSES:
            server = self._choose(ticket.request.index)
            life = server.num_losses
            server.num_running += 1
            try:
                answer = await self._ask(server, life, body)
            except httpx.TransportError as error:
                breaks += 1
                if breaks > MAX_BREAKS or not await asyncio.to_thread(server.is_healthy):
                    losses += 1
                    self._lose(server, life, type(error).__name__)
                continue
            finally:
                server.num_running -= 1
            if answer.status_code >= 500:
                losses += 1
                self._lose(server, life, f"HTTP {answer.status_code}")
            elif answer.is_error:
                raise EngineError(f"vLLM server {server.url} refuses a completion: {answer.text[:200]}")
            elif (rollout := self._read(answer.json()["choices"][0])) is not None:
                self._done.put_nowait((ticket, rollout))
                return
            elif await asyncio.to_thread(server.weights_it_has) != server.weights:
                self._lose(server, life, "it was started anew and has other weights")
        raise EngineError(f"{losses} vLLM servers in a row were lost with the same completion, the last: {server.url}")

    def _lose(self, server: Server, life: int, reason: str) -> None:
        """Unless that is known already."""
        if server.num_losses == life:
            self._servers.lose(server, reason)

    async def _ask(self, server: Server, life: int, body: dict[str, Any]) -> httpx.Response:
        """Raises httpx.TransportError, also for a server that was lost meanwhile: a hanging one says nothing."""
        asking = asyncio.ensure_future(self._client.post(server.url + ROUTE, json=body))
        try:
            while not (await asyncio.wait({asking}, timeout=1.0))[0]:
                if server.num_losses != life:
                    raise httpx.ReadTimeout("lost")
            return asking.result()
        finally:
            asking.cancel()

    def _choose(self, group: int) -> Server:
        """The least busy server when the group began, which computes the prompt once."""
        if not self._servers.serving():
            self._serve_again()
        serving = self._servers.serving()
        if self._homes.get(group) not in serving:
            self._homes[group] = min(serving, key=lambda server: server.num_running)
        return self._homes[group]

    async def _watch(self) -> None:
        """Lose servers that hang."""
        failures: Counter[Server] = Counter()
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            lives = {server: server.num_losses for server in self._servers.serving()}
            well = await asyncio.to_thread(healthy, list(lives))
            failures = Counter({server: failures[server] + 1 for server in lives if server not in well})
            for server, count in failures.items():
                if count >= UNHEALTHY_AFTER:
                    self._lose(server, lives[server], "it does not answer")
