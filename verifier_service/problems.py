"""Refusals as RFC 9457 problem documents. Every error body of the service is one of these."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from verifier_service.chunks import dump
from verifier_service.schemas import FieldError, Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Refusal(Exception):
    """Raised anywhere in a route, answered as a problem document."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: Sequence[FieldError] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        title = HTTPStatus(status).phrase
        self.problem = Problem(
            type=f"urn:verifier:{kind}",
            title=title,
            status=status,
            detail=detail,
            errors=list(errors) if errors else None,
        )
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = "Bearer"


def bad_body(detail: str, errors: Sequence[FieldError]) -> Refusal:
    return Refusal(422, "bad-body", detail, errors=errors)


def unreachable() -> Refusal:
    return Refusal(503, "queue-unreachable", "the queue cannot be reached", retry_after_s=2)


def to_response(refusal: Refusal) -> Response:
    body: dict[str, Any] = refusal.problem.model_dump(exclude_none=True)
    return Response(dump(body), refusal.problem.status, refusal.headers, MEDIA_TYPE)


async def on_error(request: Request, error: Exception) -> Response:
    """What a route, or the framework, raised."""
    if isinstance(error, HTTPException):  # an unknown route, a wrong method
        kind = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        response = to_response(Refusal(error.status_code, kind, str(error.detail)))
        response.headers.update(error.headers or {})
        return response
    if isinstance(error, RedisError):
        log.warning("%s: the queue cannot be reached: %s: %s", request.url.path, type(error).__name__, error)
        error = unreachable()
    if isinstance(error, Refusal):
        return to_response(error)
    # The framework logs the exception and closes the connection after this answer.
    return to_response(Refusal(500, "bug", "the service failed; its log says why"))


HANDLED = (Refusal, HTTPException, RedisError, Exception)
"""What `on_error` is registered for."""
