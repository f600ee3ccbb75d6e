"""The real service is killed in the middle of a run and started again: the run goes on and says what it lost."""

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path

import psutil
from rich.console import Console

from tests.trainer.tiny import metrics_of, run_config
from tests.verifier_service.service_process import ServiceProcess, free_port, start_service
from trainer.ledger import read_ledger
from trainer.progress import Progress
from trainer.run_config import SourceConfig
from trainer.train import train
from verifier_service.client import Client
from verifier_service.sampling import sample
from verifier_service.schemas import Item, SampledItem, ScoreResponse


class Faulty:
    """Kills the service in step 2, whence it is back soon, and in step 3, whence it is back in step 4."""

    def __init__(self, folder: Path, plugin: Path) -> None:
        self.folder, self.plugin, self.port = folder, plugin, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lock = threading.Lock()
        self.num_starts = 0
        self.done: set[int] = set()
        self.starting = threading.Thread()
        self.service = self.start()
        self.service.wait_ready()
        self.patient, self.impatient = Client(self.url, patience_s=240), Client(self.url, patience_s=0.2)

    def start(self) -> ServiceProcess:
        self.num_starts += 1
        folder = self.folder / f"{self.num_starts}"
        started = start_service(folder, self.plugin, "--port", str(self.port), ready=False, workers=1)
        return replace(started, url=self.url)

    def start_again(self) -> None:
        self.service = self.start()

    def kill(self) -> None:
        for process in self.service.family():
            with suppress(psutil.NoSuchProcess):  # it may end by itself, or with the one before it
                process.kill()
        self.service.process.wait()

    def score(self, items: Sequence[Item], *, deadline_s: float, request_id: str) -> ScoreResponse:
        step = int(request_id.split("-")[-3])
        with self.lock:
            if step not in self.done:
                self.done.add(step)
                self.cause_fault(step)
        client = self.impatient if step == 3 else self.patient
        return client.score(items, deadline_s=deadline_s, request_id=request_id)

    def cause_fault(self, step: int) -> None:
        if step in (2, 3):
            self.kill()
        if step == 2:
            self.starting = threading.Thread(target=self.start_again)
            self.starting.start()
        if step == 4:
            self.start_again()

    def close(self) -> None:
        self.starting.join()
        self.kill()
        self.patient.close()
        self.impatient.close()


def sample_puzzles(source: SourceConfig) -> list[SampledItem]:
    assert source.dataset is not None
    return sample(source.dataset, source.seed, source.count, source.config)


def test_the_run_outlives_its_service(tmp_path: Path, plugin: Path) -> None:
    config = run_config(
        tmp_path / "run", filter={"dynamic_sampling": False}, sampling={"max_tokens": 6, "max_prompt_tokens": 99}
    )
    client = Faulty(tmp_path / "service", plugin)
    try:
        train(config, client, sample_puzzles, Progress(Console(file=StringIO())))
    finally:
        client.close()
    lines = metrics_of(tmp_path / "run")
    assert [line["reward_error_frac"] for line in lines] == [0, 0, 1, 0]
    assert [line["num_updates"] for line in lines] == [2, 2, 0, 2]
    lost = [
        rollout["reason"]
        for line in (tmp_path / "run" / "rollouts" / "step-000003.jsonl").read_text().split("\n")[:-1]
        for rollout in json.loads(line)["rollouts"]
    ]
    assert lost == ["unreachable"] * 16
    assert read_ledger(tmp_path / "run")[-1].event == "finish"
    assert client.num_starts == 3
