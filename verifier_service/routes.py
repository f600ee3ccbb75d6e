"""The HTTP routes of the contract, each a few lines over `Jobs`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from verifier_service.batch import Batch
from verifier_service.batch_store import RequestConflict
from verifier_service.bodies import admit, parse, read_body
from verifier_service.chunks import dump
from verifier_service.errors import TaskRefused
from verifier_service.gauge import QueueGauge
from verifier_service.jobs import Asked, JobLost, Jobs
from verifier_service.metrics import Metrics
from verifier_service.openapi import PROBLEMS, SAMPLE_EXAMPLE, SCORE_EXAMPLE, body_of, responses
from verifier_service.problems import Refusal, bad_body, unreachable
from verifier_service.registry import EXPLOITS_WITHSTOOD, kinds, verifier_for
from verifier_service.schemas import (
    FieldError,
    JobAccepted,
    JobState,
    SampledItem,
    SampleRequest,
    SampleResponse,
    ScoreRequest,
    ScoreResponse,
    VerifierInfo,
    VerifierList,
)
from verifier_service.settings import Settings
from verifier_service.verify import SHARED_REASONS

router = APIRouter()

JSON = "application/json"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Service:
    """What the routes use, made once a process."""

    settings: Settings
    jobs: Jobs
    gauge: QueueGauge
    metrics: Metrics


def service_of(request: Request) -> Service:
    # Not a dependency of the framework's: resolving those costs more than the rest of a route.
    found: Service = request.app.state.service
    return found


@router.post(
    "/v1/score",
    responses=responses(200, ScoreResponse, 401, 413, 415, 422, 429, 503, _409="request_id reused"),
    openapi_extra=body_of(ScoreRequest, SCORE_EXAMPLE),
)
async def score(request: Request) -> Response:
    """Judge a batch. `Accept: application/x-ndjson` streams each item when it is judged, in any order; items without
    an `id` then carry their index as one."""
    service = service_of(request)
    batch = await _submit(request, service)
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(_stream(service, batch), media_type=NDJSON)
    gone = asyncio.create_task(_disconnect(request))
    gone.add_done_callback(lambda _task: batch.announce())
    batch.waiters += 1
    try:
        while not batch.settled() and not gone.done():
            await batch.change()
    finally:
        gone.cancel()
        batch.waiters -= 1
    if not batch.finished:
        await service.jobs.abandon(batch)
        raise Refusal(409, "cancelled", "the job of this request was cancelled")
    timing = f"queue;dur={batch.queue_s * 1000:.1f}"
    return Response(batch.response_json(), media_type=JSON, headers={"Server-Timing": timing})


@router.post(
    "/v1/jobs",
    status_code=202,
    responses=responses(202, JobAccepted, 401, 413, 415, 422, 429, 503, _409="request_id reused"),
    openapi_extra=body_of(ScoreRequest, SCORE_EXAMPLE),
)
async def submit_job(request: Request) -> Response:
    """Judge a batch without waiting for it."""
    service = service_of(request)
    batch = await _submit(request, service, is_job=True)
    # A job has no client that could go away, so it is never abandoned.
    batch.waiters += 1
    return Response(dump(JobAccepted(job_id=batch.job_id)), 202, media_type=JSON)


@router.get("/v1/jobs/{job_id}", responses=responses(200, JobState, 401, 503, _404="no such job"))
async def read_job(job_id: str, request: Request) -> Response:
    """How far a job is, with its verdicts when it is finished."""
    service = service_of(request)
    return await _job_state(service, await _find(job_id, request, service))


@router.delete("/v1/jobs/{job_id}", responses=responses(200, JobState, 401, 503, _404="no such job"))
async def cancel_job(job_id: str, request: Request) -> Response:
    """Stop a job that is not finished; what is in a worker's hands is dropped too."""
    service = service_of(request)
    batch = await _find(job_id, request, service)
    if not batch.settled():
        await service.jobs.cancel(batch)
    return await _job_state(service, batch)


@router.post(
    "/v1/tasks/sample",
    responses=responses(200, SampleResponse, 401, 413, 415, 422),
    openapi_extra=body_of(SampleRequest, SAMPLE_EXAMPLE),
)
async def sample(request: Request) -> Response:
    """Procedural tasks: the same arguments give the same items."""
    service = service_of(request)
    wanted = parse(SampleRequest, await read_body(request, service.settings))
    try:
        items = await asyncio.to_thread(_sampled, wanted)
    except TaskRefused as refused:
        raise bad_body("no such tasks", [FieldError(loc=[refused.field], msg=refused.message)]) from None
    return Response(dump(SampleResponse(items=items)), media_type=JSON)


@router.get("/v1/verifiers", responses=responses(200, VerifierList, 401))
async def verifiers() -> Response:
    """Every task kind with its schema and the meaning of each reason."""
    found = await asyncio.to_thread(lambda: list(_infos()))
    return Response(dump(VerifierList(verifiers=found)), media_type=JSON)


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """This process answers."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: PROBLEMS[503]})
async def ready(request: Request) -> dict[str, str]:
    """The queue can be reached and every lane that is needed has a live worker."""
    service = service_of(request)
    await service.gauge.sample()
    if not service.gauge.reachable:
        raise unreachable()
    missing = service.gauge.missing_lanes()
    if missing:
        raise Refusal(503, "no-workers", f"no worker for {', '.join(missing)}", retry_after_s=2)
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    service = service_of(request)
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def status_page() -> HTMLResponse:
    return HTMLResponse(files("verifier_service").joinpath("web/index.html").read_text())


@router.get("/v1/status", include_in_schema=False)
async def status(request: Request) -> dict[str, object]:
    """What the status page shows."""
    service = service_of(request)
    lanes = {name: asdict(lane) for name, lane in service.gauge.lanes.items()}
    return {"reachable": service.gauge.reachable, "lanes": lanes, "verdicts": service.metrics.verdict_counts()}


def _sampled(wanted: SampleRequest) -> list[SampledItem]:
    # Imported when first asked for: Reasoning Gym takes longer to load than all the rest of the API.
    sampling = import_module("verifier_service.sampling")
    items: list[SampledItem] = sampling.sample(wanted.dataset, wanted.seed, wanted.count, wanted.config)
    return items


async def _submit(request: Request, service: Service, *, is_job: bool = False) -> Batch:
    asked = parse(ScoreRequest, await read_body(request, service.settings))
    request.state.request_id = asked.request_id
    verifiers = admit(asked, service.settings)
    await service.gauge.admit({verifier.lane for verifier in verifiers})
    try:
        state = request.state
        batch = await service.jobs.submit(Asked(asked, verifiers, state.owner, state.trace, is_job))
        service.gauge.count(batch.layout.chunks)
        return batch
    except RequestConflict:
        raise Refusal(409, "request-id-reused", "this request_id was used with another body") from None


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _stream(service: Service, batch: Batch) -> AsyncIterator[bytes]:
    batch.waiters += 1
    open_slots = list(enumerate(batch.layout.slots))
    try:
        while open_slots:
            for index, slot in [(i, slot) for i, slot in open_slots if batch.settled() or batch.is_complete(slot)]:
                yield batch.item_json(slot, default_id=str(index)) + b"\n"
                open_slots.remove((index, slot))
            if open_slots:
                await batch.change()
    finally:
        batch.waiters -= 1
        if not batch.settled():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(service.jobs.abandon(batch))


async def _find(job_id: str, request: Request, service: Service) -> Batch:
    try:
        return await service.jobs.find(job_id, request.state.owner)
    except JobLost:
        raise Refusal(404, "job-lost", "no such job: unknown, expired, or lost with its queue") from None


async def _job_state(service: Service, batch: Batch) -> Response:
    if batch.cancelled:
        status = "cancelled"
    elif batch.finished:
        status = "finished"
    else:
        status = "running" if await service.jobs.is_running(batch) else "queued"
    total = batch.layout.total
    head = dump({"job_id": batch.job_id, "status": status, "done": total - batch.missing, "total": total})
    body = head[:-1] + b',"items":' + batch.items_json() + b"}" if status == "finished" else head
    return Response(body, media_type=JSON)


def _infos() -> Iterator[VerifierInfo]:
    for kind in kinds():
        # What cannot be loaded cannot grade; `verifier doctor` says why.
        with contextlib.suppress(TaskRefused):
            verifier = verifier_for(kind)
            yield VerifierInfo(
                kind=kind,
                version=verifier.version,
                description=verifier.description,
                task_schema=verifier.task_model.model_json_schema(),
                reasons={**SHARED_REASONS, **verifier.reasons},
                exploits_withstood=EXPLOITS_WITHSTOOD.get(kind, 0),
                **verifier.info(),
            )
