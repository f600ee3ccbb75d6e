"""Prometheus metrics of one API process, and of the queue as it sees it."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from verifier_service.chunks import ResultHeader
from verifier_service.lanes import lane_of

BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, buckets=BUCKETS_S, registry=self.registry)
        self.requests = counter("verifier_requests_total", "HTTP requests", ["route", "status", "key"])
        self.request_s = histogram("verifier_request_seconds", "Time to answer", ["route"])
        self.verdicts = counter("verifier_verdicts_total", "Verdicts", ["kind", "outcome", "reason"])
        self.cached = counter("verifier_cached_total", "Verdicts copied from an equal answer")
        self.grading_cpu_s = counter("verifier_grading_cpu_seconds_total", "CPU of the graders")
        self.grading_s = counter("verifier_grading_seconds_total", "Time spent judging", ["kind"])
        self.queue_s = histogram("verifier_queue_seconds", "Time a chunk waited", ["lane"])
        self.depth = gauge("verifier_queue_chunks", "Chunks waiting", ["lane"])
        self.age_s = gauge("verifier_queue_age_seconds", "Age of the oldest waiting chunk", ["lane"])
        self.drain = gauge("verifier_drain_chunks_per_second", "Measured drain rate", ["lane"])
        self.workers = gauge("verifier_workers", "Live workers", ["lane"])
        self.worker_deaths = gauge("verifier_worker_deaths", "Workers that died and were replaced", ["lane"])

    def count_result(self, header: ResultHeader) -> None:
        for tally, count in header.tallies.items():
            kind, outcome, reason = tally.split(" ", 2)
            self.verdicts.labels(kind, outcome, reason).inc(count)
        for kind, (_count, seconds) in header.judged.items():
            self.grading_s.labels(kind).inc(seconds)
        self.cached.inc(header.cached)
        self.grading_cpu_s.inc(header.grading_cpu_s)
        self.queue_s.labels(lane_of(header.chunk_id)).observe(header.queue_s)

    def verdict_counts(self) -> dict[str, float]:
        """`kind outcome` -> verdicts so far."""
        counts: dict[str, float] = {}
        for sample in next(iter(self.verdicts.collect())).samples:
            if sample.name.endswith("_total"):
                name = f"{sample.labels['kind']} {sample.labels['outcome']}"
                counts[name] = counts.get(name, 0.0) + sample.value
        return counts

    def render(self) -> bytes:
        return generate_latest(self.registry)
