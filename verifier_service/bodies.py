"""Request bodies: bounded, UTF-8 JSON, lone surrogates mended, every task checked by its kind before any is graded."""

from collections.abc import Sequence
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from verifier_service.errors import TaskRefused
from verifier_service.problems import Refusal, bad_body
from verifier_service.registry import parse_task
from verifier_service.schemas import FieldError, ScoreRequest
from verifier_service.settings import Settings
from verifier_service.surrogates import mend
from verifier_service.verifier import AnyVerifier

Model = TypeVar("Model", bound=BaseModel)

MAX_ERRORS = 50


async def read_body(request: Request, settings: Settings) -> bytes:
    """Raises `Refusal` 415 or 413."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise Refusal(415, "not-json", "the body must be `application/json`")
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise Refusal(415, "not-json", f"the body must be sent as it is, not as {coding}")
    limit = settings.max_body_bytes
    too_large = Refusal(413, "body-too-large", f"the body is larger than {limit} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
    except ClientDisconnect:
        raise Refusal(400, "incomplete-body", "the connection was closed within the body") from None
    return b"".join(parts)


def parse(model: type[Model], body: bytes) -> Model:
    """Raises `Refusal` 422."""
    try:
        return model.model_validate_json(mend(body))
    except ValidationError as error:
        raise bad_body("the body does not fit", field_errors(error, ())) from None


def field_errors(error: ValidationError, prefix: Sequence[str | int]) -> list[FieldError]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [FieldError(loc=[*prefix, *each["loc"]], msg=each["msg"]) for each in found[:MAX_ERRORS]]


def admit(request: ScoreRequest, settings: Settings) -> list[AnyVerifier]:
    """The verifier of each item. Raises `Refusal` 422 for a batch too large or with a task that cannot be graded."""
    if len(request.items) > settings.max_items:
        raise bad_body("too many items", [FieldError(loc=["items"], msg=f"at most {settings.max_items}")])
    if sum(len(item.completions) for item in request.items) > settings.max_completions:
        raise bad_body("too many completions", [FieldError(loc=["items"], msg=f"at most {settings.max_completions}")])
    verifiers: list[AnyVerifier] = []
    errors: list[FieldError] = []
    for index, item in enumerate(request.items):
        where = ("items", index, "task")
        tests = item.task.get("tests")
        if isinstance(tests, list) and len(tests) > settings.max_tests:
            errors.append(FieldError(loc=[*where, "tests"], msg=f"at most {settings.max_tests}"))
            continue
        try:
            verifiers.append(parse_task(item.task)[0])
        except ValidationError as error:
            errors += field_errors(error, where)
        except TaskRefused as error:
            steps = (int(step) if step.isdecimal() else step for step in error.field.split("."))
            errors.append(FieldError(loc=[*where, *steps], msg=error.message))
    if errors:
        raise bad_body("a task cannot be graded; nothing of the batch was", errors[:MAX_ERRORS])
    return verifiers
