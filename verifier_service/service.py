"""What the routes use, made once a process."""

from dataclasses import dataclass

from fastapi import Request

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


def service_of(request: Request) -> Service:
    # Not a dependency of the framework's: resolving those costs more than the rest of a route.
    found: Service = request.app.state.service
    return found
