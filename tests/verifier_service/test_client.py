"""The client: retries of the right things only, idempotent by itself, the same in both colours."""

import asyncio
import json
import time
from collections.abc import Callable

import httpx
import pytest

from verifier_service.client import AsyncClient, Client, ServiceError, split_batches
from verifier_service.schemas import Item

ITEM = Item(task={"kind": "echo", "want": "yes"}, completions=["yes", "no"])
VERDICT = {"outcome": "correct", "reward": 1.0, "reason": "equal", "verifier": "echo", "verifier_version": "1"}
ANSWER = {"request_id": "x", "items": [{"id": None, "verdicts": [VERDICT]}]}
PROBLEM = {"type": "urn:x", "title": "Busy", "status": 429, "detail": "the queue is full"}


Handler = Callable[[httpx.Request], httpx.Response]


class Script:
    """Answers each request with the next step; an exception is raised."""

    def __init__(self, *steps: httpx.Response | Exception) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(time.monotonic())
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def sync_score(script: Handler, patience_s: float = 5.0) -> object:
    with Client("http://service", patience_s=patience_s, transport=httpx.MockTransport(script)) as client:
        return client.score([ITEM])


def async_score(script: Handler, patience_s: float = 5.0) -> object:
    async def run() -> object:
        transport = httpx.MockTransport(script)
        async with AsyncClient("http://service", patience_s=patience_s, transport=transport) as client:
            return await client.score([ITEM])

    return asyncio.run(run())


COLOURS = pytest.mark.parametrize("score", [sync_score, async_score])
Score = Callable[..., object]


@COLOURS
def test_transport_errors_429_and_503_are_tried_again_with_one_request_id(score: Score) -> None:
    script = Script(
        httpx.ConnectError("refused"),
        httpx.ReadError("cut"),
        httpx.Response(429, json=PROBLEM),
        httpx.Response(503, json=PROBLEM),
        httpx.Response(200, json=ANSWER),
    )
    score(script)
    bodies = [json.loads(request.content) for request in script.requests]
    assert len(bodies) == 5
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["request_id"]


@COLOURS
@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 415, 422, 500, 502])
def test_nothing_else_is_tried_again(score: Score, status: int) -> None:
    script = Script(httpx.Response(status, json=PROBLEM | {"status": status}))
    with pytest.raises(ServiceError, match="the queue is full") as caught:
        score(script)
    assert caught.value.problem is not None
    assert caught.value.problem.status == status


@COLOURS
def test_retry_after_is_honoured(score: Score) -> None:
    script = Script(httpx.Response(429, json=PROBLEM, headers={"Retry-After": "1"}), httpx.Response(200, json=ANSWER))
    score(script)
    assert 1.0 <= script.times[1] - script.times[0] < 5.0


@COLOURS
def test_patience_ends(score: Score) -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        score(Script(*[httpx.ConnectError("refused")] * 50), patience_s=0.5)
    with pytest.raises(ServiceError, match="the queue is full"):
        score(Script(httpx.Response(429, json=PROBLEM, headers={"Retry-After": "60"})), patience_s=0.5)


@COLOURS
def test_patience_is_with_failures_not_with_slow_batches(score: Score) -> None:
    def slowly_cut(request: httpx.Request) -> httpx.Response:
        if len(script.steps) == 2:
            time.sleep(0.4)
        return script(request)

    script = Script(httpx.ReadError("cut"), httpx.Response(200, json=ANSWER))
    score(slowly_cut, patience_s=0.3)


@COLOURS
def test_an_answer_that_is_no_problem_document_is_still_said(score: Score) -> None:
    with pytest.raises(ServiceError, match="HTTP 502: bad gateway"):
        score(Script(httpx.Response(502, text="bad gateway")))


def test_every_request_gets_its_own_id() -> None:
    first, second = Script(httpx.Response(200, json=ANSWER)), Script(httpx.Response(200, json=ANSWER))
    sync_score(first)
    sync_score(second)
    ids = {json.loads(script.requests[0].content)["request_id"] for script in (first, second)}
    assert len(ids) == 2


def test_the_key_is_sent() -> None:
    script = Script(httpx.Response(200, json={"verifiers": []}))
    with Client("http://service", api_key="secret", transport=httpx.MockTransport(script)) as client:
        client.verifiers()
    assert script.requests[0].headers["authorization"] == "Bearer secret"


def test_the_line_feed_after_a_key_that_was_read_from_a_file_is_not_sent() -> None:
    script = Script(httpx.Response(200, json=ANSWER))
    with Client("http://service", api_key="k1\n", transport=httpx.MockTransport(script)) as client:
        client.score([ITEM])
    assert script.requests[0].headers["authorization"] == "Bearer k1"


def test_batches_never_cut_an_item() -> None:
    items = [Item(task={"kind": "x"}, completions=["c"] * count) for count in (3, 3, 9, 1, 1)]
    assert [[len(item.completions) for item in batch] for batch in split_batches(items, 6)] == [[3, 3], [9], [1, 1]]


def test_every_call_works_against_the_service(client: Client) -> None:
    response = client.score([ITEM])
    assert [verdict.reward for verdict in response.items[0].verdicts] == [1.0, 0.0]
    job_id = client.submit([ITEM])
    while client.job(job_id).status != "finished":
        time.sleep(0.01)
    assert client.cancel(job_id).status == "finished"
    assert len(client.sample("chain_sum", seed=3, count=2)) == 2
    assert "echo" in {info.kind for info in client.verifiers()}


def test_half_a_surrogate_pair_is_sent_and_mended(client: Client) -> None:
    item = Item(task={"kind": "echo", "want": "yes"}, completions=["half \ud83d"])
    assert client.score([item]).items[0].verdicts[0].extracted == "half \ufffd"


async def test_a_whole_step_can_be_gathered(client: Client) -> None:
    async with AsyncClient(str(client._http.base_url), concurrency=8) as gathering:
        items = [Item(task={"kind": "echo", "want": str(number)}, completions=["3", "x"]) for number in range(40)]
        responses = await asyncio.gather(*(gathering.score([item]) for item in items))
        rewards = [response.items[0].verdicts[0].reward for response in responses]
        assert rewards == [float(number == 3) for number in range(40)]
        assert (await gathering.job(await gathering.submit([ITEM]))).total == 2
        assert len(await gathering.sample("chain_sum")) == 1
        assert await gathering.verifiers()


def test_a_lone_surrogate_in_a_completion_is_sent_as_its_escape() -> None:
    script = Script(httpx.Response(200, json=ANSWER))
    item = ITEM.model_copy(update={"completions": ["cut \ud800 here", "é \x00"]})
    with Client("http://service", transport=httpx.MockTransport(script)) as client:
        client.score([item])
    assert json.loads(script.requests[0].content)["items"][0]["completions"] == ["cut \ud800 here", "é \x00"]


@COLOURS
def test_an_address_that_is_no_url_is_not_tried_again(score: Score) -> None:
    script = Script(httpx.UnsupportedProtocol("no protocol"))
    with pytest.raises(ServiceError, match="no protocol"):
        score(script)
    assert len(script.requests) == 1
