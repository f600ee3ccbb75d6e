"""Prometheus metrics of one API process, and of the queue as it sees it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from verifier_service.chunks import ResultHeader

BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class Metrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "verifier_requests_total", "HTTP requests", ["route", "status", "key"], registry=registry
        )
        self.request_s = Histogram(
            "verifier_request_seconds", "Time to answer", ["route"], buckets=BUCKETS_S, registry=registry
        )
        self.verdicts = Counter("verifier_verdicts_total", "Verdicts", ["kind", "outcome", "reason"], registry=registry)
        self.cached = Counter("verifier_cached_total", "Verdicts copied from an equal answer", registry=registry)
        self.grading_cpu_s = Counter("verifier_grading_cpu_seconds_total", "CPU of the graders", registry=registry)
        self.grading_s = Counter("verifier_grading_seconds_total", "Time spent judging", ["kind"], registry=registry)
        self.queue_s = Histogram(
            "verifier_queue_seconds", "Time a chunk waited", ["lane"], buckets=BUCKETS_S, registry=registry
        )
        self.depth = Gauge("verifier_queue_chunks", "Chunks waiting", ["lane"], registry=registry)
        self.age_s = Gauge("verifier_queue_age_seconds", "Age of the oldest waiting chunk", ["lane"], registry=registry)
        self.drain = Gauge("verifier_drain_chunks_per_second", "Measured drain rate", ["lane"], registry=registry)
        self.workers = Gauge("verifier_workers", "Live workers", ["lane"], registry=registry)
        self.worker_deaths = Gauge(
            "verifier_worker_deaths", "Workers that died and were replaced", ["lane"], registry=registry
        )

    def count_result(self, header: ResultHeader) -> None:
        lane = header.chunk_id.partition("-")[0]
        for tally, count in header.tallies.items():
            kind, outcome, reason = tally.split(" ", 2)
            self.verdicts.labels(kind, outcome, reason).inc(count)
        for kind, (_count, seconds) in header.judged.items():
            self.grading_s.labels(kind).inc(seconds)
        self.cached.inc(header.cached)
        self.grading_cpu_s.inc(header.grading_cpu_s)
        self.queue_s.labels(lane).observe(header.queue_s)

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
