"""vLLM servers as the engine: completions asked of the least busy one, asked again elsewhere when a server is lost."""

import asyncio
import math
import resource
import uuid
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import torch

from trainer.engine.flight import Flight, Reader, Ticket
from trainer.engine.protocol import Engine, RolloutRequest, Sampling
from trainer.engine.vllm_request import PROBE_PARAMS, sampling_params
from trainer.engine.vllm_servers import Server, Servers, on_all
from trainer.engine.vllm_weights import Channel, transfer
from trainer.errors import EngineError
from trainer.parallel import Ranks
from trainer.types import Rollout, RolloutGroup

ROUTE = "/inference/v1/generate"
"""Tokens in, tokens out, with the name of the weights they came from."""
HEALTH_EVERY_S = 10.0
MAX_FAILURES = 2
UNHEALTHY_AFTER = 3
"""Health checks in a row: a server may be late once."""
Weights = Iterable[tuple[str, torch.Tensor]]


class VllmHttpEngine(Engine):
    """Every rank asks all servers, which have their devices for themselves; rank 0 hands out weights."""

    def __init__(
        self,
        servers: Servers,
        channel: Channel,
        reader: Reader,
        max_rows: int,
        weights: Callable[[], Weights],
        ranks: Ranks,
    ) -> None:
        """`weights` gives the policy's again, for servers that come back in the middle of a rollout."""
        self._servers, self._channel, self._reader, self._ranks = servers, channel, reader, ranks
        self._max_rows, self._weights = max_rows, weights
        self._name, self._policy_version = "", 0
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each completion under way is a connection

    def push(self, weights: Weights, policy_version: int) -> None:
        """Raises EngineError where no server is left."""
        name = uuid.uuid4().hex  # not the version: after a rollback it comes again with other weights
        if self._ranks.is_main:
            have = transfer(weights, self._servers.living(), self._channel, name)
            self._servers.keep(have, "it did not take its weights")
        else:
            for _ in weights:  # each is put together by all ranks
                pass
        name, urls = self._ranks.on_main(lambda: (name, [server.url for server in self._servers.serving()]))
        for server in self._servers.all:
            server.weights = name if server.url in urls else None
        self._name, self._policy_version = name, policy_version

    def _push_again(self) -> None:
        """To servers that come back when none was left."""
        if self._ranks.size > 1:
            raise EngineError("no vLLM server is left, and with several ranks weights are pushed only between steps")
        self.push(self._weights(), self._policy_version)

    def rollout(
        self, requests: Iterable[RolloutRequest | None], sampling: Sampling
    ) -> Generator[RolloutGroup, None, None]:
        flight = Flight(requests, self._max_rows * max(1, len(self._servers.serving())))
        with _Asking(self._servers, self._read, self._push_again) as asking:
            while True:
                for ticket in flight.take():
                    params = sampling_params(sampling, ticket.seed, self._reader.stop_ids)
                    asking.begin(
                        ticket, {"token_ids": list(ticket.request.prompt.token_ids), "sampling_params": params}
                    )
                if not flight.num_running:
                    return
                if (group := flight.land(*asking.next())) is not None:
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

        on_all(self._servers.serving(), ask)
        self._servers.keep(list(found), "it does not answer, or has other weights than it was given")
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
        self, servers: Servers, read: Callable[[dict[str, Any]], Rollout | None], push_again: Callable[[], None]
    ) -> None:
        self._servers, self._read, self._push_again = servers, read, push_again
        self._runner = asyncio.Runner()
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: asyncio.Queue[tuple[Ticket, Rollout] | Exception] = asyncio.Queue()
        self._homes: dict[int, Server] = {}
        """By group: the server of its completions."""
        # No times: the trainer may be elsewhere meanwhile. Servers that hang are lost by their health.
        self._client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(), trust_env=False)

    def __enter__(self) -> Self:
        self._begin(self._watch())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        self._runner.run(self._client.aclose())
        self._runner.close()

    def begin(self, ticket: Ticket, body: dict[str, Any]) -> None:
        self._begin(self._complete(ticket, body))

    def next(self) -> tuple[Ticket, Rollout]:
        """The next completion that is done. Raises what went wrong with any."""
        done = self._runner.run(self._done.get())
        if isinstance(done, Exception):
            raise done
        return done

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            try:
                await work
            except Exception as error:  # belongs to who waits in `next`
                self._done.put_nowait(error)

        task = self._runner.get_loop().create_task(watched())
        self._tasks.add(task)  # a loop alone does not keep its tasks
        task.add_done_callback(self._tasks.discard)

    async def _complete(self, ticket: Ticket, body: dict[str, Any]) -> None:
        """From whichever server gives it, with the same seed each time."""
        failures = 0
        while True:
            server = self._choose(ticket.request.index)
            given = server.weights
            server.num_running += 1
            try:
                answer = await self._ask(server, given, body)
            except httpx.TransportError as error:
                failures += 1  # a connection may break by itself once or twice
                if failures > MAX_FAILURES or not await asyncio.to_thread(server.is_healthy):
                    self._lose(server, given, type(error).__name__)
                continue
            finally:
                server.num_running -= 1
            if answer.status_code >= 500:
                self._lose(server, given, f"HTTP {answer.status_code}")
            elif answer.is_error:
                raise EngineError(f"vLLM server {server.url} refuses a completion: {answer.text[:200]}")
            elif (rollout := self._read(answer.json()["choices"][0])) is not None:
                self._done.put_nowait((ticket, rollout))
                return
            elif await asyncio.to_thread(server.weights_it_has) != given:
                self._lose(server, given, "it was started anew and has other weights")

    def _lose(self, server: Server, given: str | None, reason: str) -> None:
        """Unless it has been given other weights since it failed."""
        if server.weights == given:
            self._servers.lose(server, reason)

    async def _ask(self, server: Server, given: str | None, body: dict[str, Any]) -> httpx.Response:
        """Raises httpx.TransportError, also for a server that was lost meanwhile: a hanging one says nothing."""
        asking = asyncio.ensure_future(self._client.post(server.url + ROUTE, json=body))
        try:
            while not (await asyncio.wait({asking}, timeout=1.0))[0]:
                if server.weights != given:
                    raise httpx.ReadTimeout("lost")
            return asking.result()
        finally:
            asking.cancel()

    def _choose(self, group: int) -> Server:
        """The least busy server when the group began, which computes the prompt once."""
        if not self._servers.serving():
            self._push_again()
        serving = self._servers.serving()
        if self._homes.get(group) not in serving:
            self._homes[group] = min(serving, key=lambda server: server.num_running)
        return self._homes[group]

    async def _watch(self) -> None:
        """Lose servers that hang."""
        failures: dict[str, int] = {}
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            for server in self._servers.serving():
                given = server.weights
                healthy = await asyncio.to_thread(server.is_healthy)
                failures[server.url] = 0 if healthy else failures.get(server.url, 0) + 1
                if failures[server.url] >= UNHEALTHY_AFTER:
                    self._lose(server, given, "it does not answer")
