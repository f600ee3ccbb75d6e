"""What the routes use, made once a process."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from verifier_service.gauge import QueueGauge
from verifier_service.jobs import Jobs
from verifier_service.metrics import Metrics
from verifier_service.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    jobs: Jobs
    gauge: QueueGauge
    metrics: Metrics


def _of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Injected = Annotated[Service, Depends(_of)]
