"""The HTTP application: wiring, life cycle, and what every request passes through."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from redis.asyncio import BlockingConnectionPool, Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from verifier_service.auth import Keys
from verifier_service.gauge import QueueGauge
from verifier_service.jobs import Jobs
from verifier_service.metrics import Metrics
from verifier_service.openapi import document_bodies
from verifier_service.problems import HANDLED, Refusal, on_error, to_response
from verifier_service.routes import Service, router
from verifier_service.settings import Settings
from verifier_service.tracing import set_up, span

log = logging.getLogger(__name__)
access_log = logging.getLogger("verifier_service.access")

OPEN_ROUTES = frozenset({"/healthz", "/readyz"})
"""Everything else needs a key where keys are configured."""
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 3.0, 10.0
"""Of Redis. A partition that resets nothing shows only by silence; `jobs.LISTEN_S` of it are nothing unusual."""
MAX_CONNECTIONS, POOL_TIMEOUT_S = 128, 20.0


def create_app(settings: Settings, redis_url: str) -> FastAPI:
    """Raises nothing for an unreachable Redis: the service starts, says 503 and recovers."""
    keys = Keys(settings)
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        set_up("verifier-api")
        # RESP2: with RESP3 redis-py 8 hands out connections that a restarted Redis has closed, a 503 each.
        pool = BlockingConnectionPool.from_url(
            redis_url,
            protocol=2,
            max_connections=MAX_CONNECTIONS,
            timeout=POOL_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            health_check_interval=30,
        )
        redis = Redis.from_pool(pool)
        gauge = QueueGauge(redis, settings, metrics)
        jobs = Jobs(redis, settings, metrics)
        await jobs.start()
        await gauge.sample()
        sampling = asyncio.create_task(gauge.run())
        app.state.service = Service(settings, jobs, gauge, metrics)
        yield
        sampling.cancel()
        await jobs.stop()
        await redis.aclose()

    # The scripts of /docs come with this package, not from a host that a cluster cannot reach.
    app = FastAPIOffline(
        title="Verifier service",
        summary="Scores completions against verifiable tasks.",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.include_router(router)
    document_bodies(app)
    for kind in HANDLED:
        app.add_exception_handler(kind, on_error)
    app.add_middleware(Door, keys=keys, metrics=metrics)
    return app


class Door:
    """Every request passes here: key checked, counted, timed, logged."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope)
        owner = "-"
        try:
            if request.url.path not in OPEN_ROUTES:
                owner = self._keys.owner(request.headers.get("authorization"))
            with span(f"{request.method} {request.url.path}", request.headers.get("traceparent", "")) as trace:
                scope.setdefault("state", {}).update(owner=owner, trace=trace)
                await self._app(scope, receive, noting_send)
        except Refusal as refusal:
            await to_response(refusal)(scope, receive, noting_send)
        finally:
            elapsed_s = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status), owner).inc()
            self._metrics.request_s.labels(route).observe(elapsed_s)
            noted = {"status": status, "elapsed_s": round(elapsed_s, 6)}
            noted["request_id"] = scope.get("state", {}).get("request_id")
            access_log.info("%s %s", request.method, request.url.path, extra=noted)
