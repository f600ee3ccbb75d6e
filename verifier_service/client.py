"""Python client of the service: typed verdicts, batches, retries. Imports without FastAPI, Redis or SymPy.

    with Client("http://127.0.0.1:8000") as client:
        response = client.score([Item(task={"kind": "math", "ground_truth": "2"}, completions=["\\\\boxed{2}"])])
        response.items[0].verdicts[0].reward      # 1.0, or None where it could not be judged

Each call is described once, by a function that makes a `_Call`, for both clients; all raise `ServiceError`.
Transport errors, 429 and 503 are tried again, with jitter and never before `Retry-After`; nothing else is. A
`request_id` is made up where none is given, so that a retry never has anything graded twice.
"""

import asyncio
import json
import random
import socket
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx
from pydantic import JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from verifier_service.schemas import (
    Item,
    JobAccepted,
    JobState,
    Problem,
    SampledItem,
    SampleResponse,
    ScoreRequest,
    ScoreResponse,
    VerifierInfo,
    VerifierList,
)

RETRIED_STATUSES = frozenset({429, 503})
FIRST_PAUSE_S, MAX_PAUSE_S = 0.1, 10.0
RUN_S = 3600.0
"""Waited beyond the deadline: what was dispatched before it is still judged."""
# A server that vanished without a word is noticed in about a minute, while a slow batch may be waited for long.
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]

P = ParamSpec("P")
Answer = TypeVar("Answer")
Later = Coroutine[Any, Any, Answer]


class ServiceError(Exception):
    """The service refused, or could not be reached in time; `problem` is what it said, None where it said nothing."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True)
class _Call(Generic[Answer]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[bytes], Answer]
    body: bytes | None = None
    waiting_s: float = 30.0

    def arguments(self) -> dict[str, Any]:
        """For `httpx`. The service's spans become part of the caller's trace, where it has one."""
        headers: dict[str, str] = {}
        if "opentelemetry.trace" in sys.modules:
            import_module("opentelemetry.propagate").inject(headers)
        timeout = httpx.Timeout(connect=10.0, read=self.waiting_s, write=60.0, pool=None)
        return {"method": self.method, "url": self.path, "content": self.body, "headers": headers, "timeout": timeout}

    def answer(self, response: httpx.Response) -> Answer:
        if not response.is_success:
            raise _refused(response)
        return self.read(response.content)


def _score(items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None) -> _Call[ScoreResponse]:
    """Verdicts for every completion, in the order given."""
    body = _score_body(items, deadline_s, request_id)
    return _Call("POST", "/v1/score", ScoreResponse.model_validate_json, body, deadline_s + RUN_S)


def _submit(items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None) -> _Call[str]:
    """Start a job and return its id."""
    body = _score_body(items, deadline_s, request_id)
    return _Call("POST", "/v1/jobs", lambda answer: JobAccepted.model_validate_json(answer).job_id, body)


def _job(job_id: str) -> _Call[JobState]:
    """How far a job is, with its verdicts when it is finished."""
    return _Call("GET", f"/v1/jobs/{job_id}", JobState.model_validate_json)


def _cancel(job_id: str) -> _Call[JobState]:
    """Stop a job that is not finished."""
    return _Call("DELETE", f"/v1/jobs/{job_id}", JobState.model_validate_json)


def _sample(
    dataset: str, *, seed: int = 0, count: int = 1, config: Mapping[str, JsonValue] | None = None
) -> _Call[list[SampledItem]]:
    """Procedural tasks: the same arguments give the same items."""
    body = to_json({"kind": "logic", "dataset": dataset, "seed": seed, "count": count, "config": dict(config or {})})
    return _Call("POST", "/v1/tasks/sample", lambda answer: SampleResponse.model_validate_json(answer).items, body)


def _verifiers() -> _Call[list[VerifierInfo]]:
    """Every task kind of the service."""
    return _Call("GET", "/v1/verifiers", lambda answer: VerifierList.model_validate_json(answer).verifiers)


def _waited(describe: Callable[P, _Call[Answer]]) -> Callable[Concatenate["Client", P], Answer]:
    @wraps(describe)
    def send(client: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return client._send(describe(*args, **kwargs))

    return send


def _awaited(describe: Callable[P, _Call[Answer]]) -> Callable[Concatenate["AsyncClient", P], Later[Answer]]:
    @wraps(describe)
    async def send(client: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return await client._send(describe(*args, **kwargs))

    return send


class Client:
    """Synchronous client. Safe to share between threads."""

    score = _waited(_score)
    submit = _waited(_submit)
    job = _waited(_job)
    cancel = _waited(_cancel)
    sample = _waited(_sample)
    verifiers = _waited(_verifiers)

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        patience_s: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        transport = transport or httpx.HTTPTransport(socket_options=_KEEP_ALIVE)
        self._http = httpx.Client(base_url=base_url, headers=_headers(api_key), transport=transport)
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _send(self, call: _Call[Answer]) -> Answer:
        retries = _Retries(self._patience_s)
        while True:
            try:
                response = self._http.request(**call.arguments())
                if response.status_code not in RETRIED_STATUSES:
                    return call.answer(response)
                pause_s = retries.pause_s(response)
            except httpx.TransportError as error:
                pause_s = retries.pause_s(error)
            time.sleep(pause_s)


class AsyncClient:
    """Asynchronous client; `concurrency` bounds the requests in flight, so that a whole step can be gathered."""

    score = _awaited(_score)
    submit = _awaited(_submit)
    job = _awaited(_job)
    cancel = _awaited(_cancel)
    sample = _awaited(_sample)
    verifiers = _awaited(_verifiers)

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        patience_s: float = 120.0,
        concurrency: int = 64,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        transport = transport or httpx.AsyncHTTPTransport(limits=limits, socket_options=_KEEP_ALIVE)
        self._http = httpx.AsyncClient(base_url=base_url, headers=_headers(api_key), transport=transport)
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def _send(self, call: _Call[Answer]) -> Answer:
        retries = _Retries(self._patience_s)
        while True:
            try:
                async with self._slots:
                    response = await self._http.request(**call.arguments())
                if response.status_code not in RETRIED_STATUSES:
                    return call.answer(response)
                pause_s = retries.pause_s(response)
            except httpx.TransportError as error:
                pause_s = retries.pause_s(error)
            await asyncio.sleep(pause_s)


class _Retries:
    """When to try again, the same for both clients."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._pause_s = FIRST_PAUSE_S
        self._failed_at = self._give_up_at = float("-inf")

    def pause_s(self, failure: httpx.Response | httpx.TransportError) -> float:
        """Seconds until the next attempt. Raises `ServiceError` where there is none."""
        if isinstance(failure, httpx.UnsupportedProtocol):
            raise ServiceError(str(failure)) from failure
        now = time.monotonic()
        if now - self._failed_at > self._patience_s:
            # The first failure, or one after an attempt that went well for long: a service that restarts in the middle
            # of a slow batch has not been away for all that time.
            self._give_up_at, self._pause_s = now + self._patience_s, FIRST_PAUSE_S
        self._failed_at = now
        asked = failure.headers.get("retry-after", "") if isinstance(failure, httpx.Response) else ""
        asked_s = float(asked) if asked.isdigit() else 0.0
        pause_s = max(self._pause_s * random.uniform(0.5, 1.5), asked_s * random.uniform(1.0, 1.2))
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        if now + pause_s > self._give_up_at:
            if isinstance(failure, httpx.Response):
                raise _refused(failure)
            raise ServiceError(f"the service cannot be reached: {failure!r}") from failure
        return pause_s


def split_batches(items: Iterable[Item], max_completions: int) -> Iterator[list[Item]]:
    """Cut a long list of items into requests of at most `max_completions` completions (an item is never cut)."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and size + len(item.completions) > max_completions:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item.completions)
    if batch:
        yield batch


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    key = (api_key or "").strip()  # a key that was read from a file ends with a line feed
    if not (key.isascii() and key.isprintable()):
        raise ServiceError("the API key is not printable ASCII")
    return headers | {"Authorization": f"Bearer {key}"} if key else headers


def _score_body(items: Sequence[Item], deadline_s: float, request_id: str | None) -> bytes:
    request = ScoreRequest(request_id=request_id or uuid.uuid4().hex, deadline_s=deadline_s, items=list(items))
    try:
        return to_json(request, inf_nan_mode="constants")
    except PydanticSerializationError:
        # A lone surrogate, which a decoder can leave in a completion, exists in JSON as an escape only.
        return json.dumps(request.model_dump(mode="python")).encode()


def _refused(response: httpx.Response) -> ServiceError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return ServiceError(f"HTTP {response.status_code}: {response.text[:200]}")
    where = "; ".join(f"{'.'.join(map(str, each.loc))}: {each.msg}" for each in problem.errors or [])
    return ServiceError(f"HTTP {problem.status}: {problem.detail}" + (f" ({where})" if where else ""), problem)
