"""Python client of the service: typed verdicts, batches, retries. Imports without FastAPI, Redis or SymPy.

    with Client("http://127.0.0.1:8000") as client:
        response = client.score([Item(task={"kind": "math", "ground_truth": "2"}, completions=["\\\\boxed{2}"])])
        response.items[0].verdicts[0].reward      # 1.0, or None where it could not be judged

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
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Self

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
    ScoredItem,
    ScoreRequest,
    ScoreResponse,
    VerifierInfo,
    VerifierList,
)

RETRIED_STATUSES = frozenset({429, 503})
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
SPARE_S = 30.0
"""Waited beyond the deadline: what was dispatched before it is still judged."""
RUN_S = 3600.0
"""Longest time that what was dispatched may run."""
# A server that vanished without a word is noticed in about a minute, while a slow batch may be waited for long.
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class ServiceError(Exception):
    """The service refused, or could not be reached in time; `problem` is what it said, None where it said nothing."""

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class _Retries:
    """When to try again, the same for both clients."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._pause_s = FIRST_PAUSE_S
        self._failed_at = self._give_up_at = float("-inf")

    def pause_s(self, response: httpx.Response | None, error: httpx.TransportError | None) -> float:
        """Seconds until the next attempt. Raises `ServiceError` where there is none."""
        if isinstance(error, httpx.UnsupportedProtocol):
            raise ServiceError(str(error)) from error
        now = time.monotonic()
        if now - self._failed_at > self._patience_s:
            # The first failure, or one after an attempt that went well for long: a service that restarts in the middle
            # of a slow batch has not been away for all that time.
            self._give_up_at, self._pause_s = now + self._patience_s, FIRST_PAUSE_S
        self._failed_at = now
        retry_after_s = _retry_after_s(response)
        jittered_s = self._pause_s * random.uniform(0.5, 1.5)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        pause_s = max(jittered_s, retry_after_s * random.uniform(1.0, 1.2))
        if now + pause_s > self._give_up_at:
            if response is not None:
                raise _refused(response)
            raise ServiceError(f"the service cannot be reached: {error!r}") from error
        return pause_s


class Client:
    """Synchronous client. Safe to share between threads."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        patience_s: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers=_headers(api_key),
            event_hooks={"request": [_join_trace]},
            transport=transport or httpx.HTTPTransport(socket_options=_KEEP_ALIVE),
            timeout=_timeout(30.0),
        )
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def score(
        self, items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None
    ) -> ScoreResponse:
        """Verdicts for every completion, in the order given. Raises `ServiceError`."""
        body, timeout = _score_body(items, deadline_s, request_id)
        return ScoreResponse.model_validate_json(self._send("POST", "/v1/score", body, timeout).content)

    def score_stream(
        self, items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None
    ) -> Iterator[ScoredItem]:
        """Each item when it is judged, in any order. Not resumed when the connection breaks: raises `ServiceError`."""
        body, timeout = _score_body(items, deadline_s, request_id)
        headers = {"Accept": "application/x-ndjson"}
        try:
            with self._http.stream("POST", "/v1/score", content=body, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    response.read()
                    raise _refused(response)
                for line in response.iter_lines():
                    yield ScoredItem.model_validate_json(line)
        except httpx.TransportError as error:
            raise ServiceError(f"the stream broke: {error!r}") from error

    def submit(self, items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None) -> str:
        """Start a job and return its id."""
        body, _timeout_s = _score_body(items, deadline_s, request_id)
        return JobAccepted.model_validate_json(self._send("POST", "/v1/jobs", body).content).job_id

    def job(self, job_id: str) -> JobState:
        return JobState.model_validate_json(self._send("GET", f"/v1/jobs/{job_id}").content)

    def cancel(self, job_id: str) -> JobState:
        return JobState.model_validate_json(self._send("DELETE", f"/v1/jobs/{job_id}").content)

    def sample(
        self, dataset: str, *, seed: int = 0, count: int = 1, config: Mapping[str, JsonValue] | None = None
    ) -> list[SampledItem]:
        body = _sample_body(dataset, seed, count, config)
        return SampleResponse.model_validate_json(self._send("POST", "/v1/tasks/sample", body).content).items

    def verifiers(self) -> list[VerifierInfo]:
        return VerifierList.model_validate_json(self._send("GET", "/v1/verifiers").content).verifiers

    def _send(
        self, method: str, path: str, body: bytes | None = None, waiting: httpx.Timeout | None = None
    ) -> httpx.Response:
        retries = _Retries(self._patience_s)
        while True:
            response: httpx.Response | None = None
            failure: httpx.TransportError | None = None
            try:
                response = self._http.request(method, path, content=body, timeout=waiting or _timeout(30.0))
            except httpx.TransportError as error:
                failure = error
            if response is not None and response.status_code not in RETRIED_STATUSES:
                return _checked(response)
            time.sleep(retries.pause_s(response, failure))


class AsyncClient:
    """Asynchronous client; `concurrency` bounds the requests in flight, so that a whole step can be gathered."""

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
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers=_headers(api_key),
            event_hooks={"request": [_join_trace_async]},
            transport=transport or httpx.AsyncHTTPTransport(limits=limits, socket_options=_KEEP_ALIVE),
            timeout=_timeout(30.0),
        )
        self._patience_s = patience_s
        self._slots = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def score(
        self, items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None
    ) -> ScoreResponse:
        """Verdicts for every completion, in the order given. Raises `ServiceError`."""
        body, timeout = _score_body(items, deadline_s, request_id)
        return ScoreResponse.model_validate_json((await self._send("POST", "/v1/score", body, timeout)).content)

    async def score_stream(
        self, items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None
    ) -> AsyncIterator[ScoredItem]:
        """Each item when it is judged, in any order. Not resumed when the connection breaks: raises `ServiceError`."""
        body, timeout = _score_body(items, deadline_s, request_id)
        headers = {"Accept": "application/x-ndjson"}
        try:
            async with (
                self._slots,
                self._http.stream("POST", "/v1/score", content=body, headers=headers, timeout=timeout) as response,
            ):
                if response.status_code != 200:
                    await response.aread()
                    raise _refused(response)
                async for line in response.aiter_lines():
                    yield ScoredItem.model_validate_json(line)
        except httpx.TransportError as error:
            raise ServiceError(f"the stream broke: {error!r}") from error

    async def submit(self, items: Sequence[Item], *, deadline_s: float = 300.0, request_id: str | None = None) -> str:
        """Start a job and return its id."""
        body, _timeout_s = _score_body(items, deadline_s, request_id)
        return JobAccepted.model_validate_json((await self._send("POST", "/v1/jobs", body)).content).job_id

    async def job(self, job_id: str) -> JobState:
        return JobState.model_validate_json((await self._send("GET", f"/v1/jobs/{job_id}")).content)

    async def cancel(self, job_id: str) -> JobState:
        return JobState.model_validate_json((await self._send("DELETE", f"/v1/jobs/{job_id}")).content)

    async def sample(
        self, dataset: str, *, seed: int = 0, count: int = 1, config: Mapping[str, JsonValue] | None = None
    ) -> list[SampledItem]:
        body = _sample_body(dataset, seed, count, config)
        return SampleResponse.model_validate_json((await self._send("POST", "/v1/tasks/sample", body)).content).items

    async def verifiers(self) -> list[VerifierInfo]:
        return VerifierList.model_validate_json((await self._send("GET", "/v1/verifiers")).content).verifiers

    async def _send(
        self, method: str, path: str, body: bytes | None = None, waiting: httpx.Timeout | None = None
    ) -> httpx.Response:
        retries = _Retries(self._patience_s)
        while True:
            response: httpx.Response | None = None
            failure: httpx.TransportError | None = None
            try:
                async with self._slots:
                    response = await self._http.request(method, path, content=body, timeout=waiting or _timeout(30.0))
            except httpx.TransportError as error:
                failure = error
            if response is not None and response.status_code not in RETRIED_STATUSES:
                return _checked(response)
            await asyncio.sleep(retries.pause_s(response, failure))


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


def _join_trace(request: httpx.Request) -> None:
    """Let the service's spans be part of the caller's trace, where it has one."""
    if "opentelemetry.trace" in sys.modules:
        import_module("opentelemetry.propagate").inject(request.headers)


async def _join_trace_async(request: httpx.Request) -> None:
    _join_trace(request)


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    key = (api_key or "").strip()  # a key that was read from a file ends with a line feed
    if not (key.isascii() and key.isprintable()):
        raise ServiceError("the API key is not printable ASCII")
    return headers | {"Authorization": f"Bearer {key}"} if key else headers


def _timeout(read_s: float) -> httpx.Timeout:
    return httpx.Timeout(connect=10.0, read=read_s, write=60.0, pool=None)


def _score_body(items: Sequence[Item], deadline_s: float, request_id: str | None) -> tuple[bytes, httpx.Timeout]:
    request = ScoreRequest(request_id=request_id or uuid.uuid4().hex, deadline_s=deadline_s, items=list(items))
    try:
        body = to_json(request, inf_nan_mode="constants")
    except PydanticSerializationError:
        # A lone surrogate, which a decoder can leave in a completion, exists in JSON as an escape only.
        body = json.dumps(request.model_dump(mode="python")).encode()
    return body, _timeout(deadline_s + RUN_S + SPARE_S)


def _sample_body(dataset: str, seed: int, count: int, config: Mapping[str, JsonValue] | None) -> bytes:
    body: dict[str, Any] = {"kind": "logic", "dataset": dataset, "seed": seed, "count": count}
    return to_json(body | {"config": dict(config or {})})


def _retry_after_s(response: httpx.Response | None) -> float:
    given = response.headers.get("retry-after", "") if response is not None else ""
    return float(given) if given.isdigit() else 0.0


def _checked(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise _refused(response)
    return response


def _refused(response: httpx.Response) -> ServiceError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return ServiceError(f"HTTP {response.status_code}: {response.text[:200]}")
    where = "; ".join(f"{'.'.join(map(str, each.loc))}: {each.msg}" for each in problem.errors or [])
    return ServiceError(f"HTTP {problem.status}: {problem.detail}" + (f" ({where})" if where else ""), problem)
