"""The request bodies of the OpenAPI document, with examples: the routes read raw bytes, so FastAPI cannot know them."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from verifier_service.schemas import Problem, SampleRequest, ScoreRequest

SCORE_EXAMPLE: dict[str, Any] = {
    "request_id": "run7-step120-b3",
    "deadline_s": 60,
    "items": [
        {
            "id": "p17",
            "task": {"kind": "math", "ground_truth": "\\frac{1}{2}"},
            "completions": ["so it is \\boxed{0.5}", "so it is \\boxed{2}"],
        }
    ],
}
SAMPLE_EXAMPLE: dict[str, Any] = {"kind": "logic", "dataset": "chain_sum", "seed": 7, "count": 2, "config": {}}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, text in {
        401: "no key, or a wrong one",
        413: "the body is too large",
        415: "the body is not JSON",
        422: "the body does not fit; nothing of it was graded",
        429: "the queue is full; see Retry-After",
        503: "the queue cannot be reached; see Retry-After",
    }.items()
}


Responses = dict[int | str, dict[str, Any]]


def responses(status: int, model: type[BaseModel], *refusals: int, **more: str) -> Responses:
    """The documented answers of a route; `_404="text"` adds a refusal that is its own."""
    found: Responses = {status: {"model": model}}
    found |= {refusal: PROBLEMS[refusal] for refusal in refusals}
    for name, text in more.items():
        found[int(name[1:])] = {**PROBLEMS[401], "description": text}
    return found


def body_of(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


def document_bodies(app: FastAPI) -> None:
    """Add the schemas that the routes refer to by name."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        _keys, schemas = models_json_schema(
            [(model, "validation") for model in (ScoreRequest, SampleRequest, Problem)],
            ref_template="#/components/schemas/{model}",
        )
        for name, schema in schemas["$defs"].items():
            document["components"]["schemas"].setdefault(name, schema)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
