"""vLLM servers over HTTP: which live, which have the newest weights, and those that the trainer starts itself."""

import atexit
import contextlib
import ctypes
import functools
import ipaddress
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import torch

from trainer.engine.config import EngineConfig
from trainer.engine.vllm_request import check_version, dtype_name
from trainer.errors import ConfigError, EngineError

T = TypeVar("T")
logger = logging.getLogger(__name__)

CONTROL_TIMEOUT_S = 300.0
"""Of whatever a server does at its own pace, and of everything a transfer of weights waits for: a group that lost a
member waits for ever. Seconds are enough; a health check gets a few."""
POLL_S = 0.5


@functools.cache
def client() -> httpx.Client:
    """One for all: to make one takes longer than most requests. No connection is kept, since servers come and go."""
    return httpx.Client(timeout=CONTROL_TIMEOUT_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass(eq=False)
class Server:
    """One server. `weights` names those it was last given; None: it must not serve."""

    url: str
    weights: str | None = None
    checked: bool = False
    command: Sequence[str] = ()
    """Of a server that the trainer starts."""
    environment: dict[str, str] | None = None
    log: Path | None = None
    process: "subprocess.Popen[bytes] | None" = None
    num_running: int = 0
    """Completions asked of it."""
    num_losses: int = 0
    """Times it was lost: an answer that comes from before the last of them is nobody's."""
    num_workers: int = 1
    """Processes that each take weights; known once it was checked."""

    def weights_it_has(self) -> str | None:
        """Their name, told by the engine itself: `/health` is answered in front of one that hangs. None: no answer.

        Empty where the server has no such route, for the check at its first use to complain of.
        """
        with contextlib.suppress(httpx.TransportError):
            answer = client().get(f"{self.url}/weight_info", timeout=10.0)
            if answer.status_code in (200, 404):
                return str(answer.json()["weight_version"]) if answer.status_code == 200 else ""
        return None

    def is_healthy(self) -> bool:
        return self.weights_it_has() is not None

    def post(self, route: str, body: dict[str, Any] | None = None) -> Any:
        """Raises httpx.HTTPError."""
        return client().post(f"{self.url}{route}", json=body).raise_for_status().json()

    def get(self, route: str) -> Any:
        """Raises httpx.HTTPError."""
        return client().get(f"{self.url}{route}").raise_for_status().json()

    def start(self) -> None:
        """Start an own server that does not run."""
        if not self.command or (self.process is not None and self.process.poll() is None):
            return
        assert self.log is not None
        self.kill()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=True,
                preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGTERM),  # it ends with a trainer that is killed
            )

    def ask_to_end(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def stop(self) -> None:
        if self.process is not None:
            self.ask_to_end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
            self.kill()
            self.process.wait()

    def kill(self) -> None:
        """With what a server leaves behind when it is killed: its engine, which would keep the device's memory."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Servers:
    """All servers of a run."""

    def __init__(self, servers: Sequence[Server], patience_s: float, max_model_len: int, backend: str) -> None:
        self.all = list(servers)
        self._patience_s, self._max_model_len, self._backend = patience_s, max_model_len, backend
        self._everyone = True
        for server in self.all:
            refuse_public(server.url)
        atexit.register(self.close)

    def serving(self) -> list[Server]:
        return [server for server in self.all if server.weights is not None]

    def lose(self, server: Server, reason: str) -> None:
        """It serves nothing until it has been given weights again. An own one is started again before that."""
        logger.warning("vLLM server %s is lost: %s", server.url, reason)
        server.kill()  # it may hang
        server.weights, server.checked = None, False
        server.num_losses += 1

    def living(self, without: Collection[Server] = ()) -> list[Server]:
        """Servers that answer, but for some. Own ones that ended are started again; none may be missing at the run's
        beginning.

        Later nobody is waited for while another is left. Raises EngineError when patience ends without any.
        """
        wanted = [server for server in self.all if server not in without]
        if not wanted:
            raise EngineError("no vLLM server is left: each was given weights again and did not take them")
        deadline = time.monotonic() + self._patience_s
        while True:
            self._raise_if_hopeless()
            for server in wanted:
                server.start()
            alive = healthy(wanted)
            late = time.monotonic() > deadline
            if alive and (late or not self._everyone or len(alive) == len(self.all)):
                break
            if late:
                raise EngineError(f"no vLLM server answers: {', '.join(s.url for s in wanted)}")
            time.sleep(POLL_S)
        self._everyone = False
        for server in self.serving():
            if server not in alive:
                self.lose(server, "it does not answer")
        return on_all(alive, self._check)

    def wait_for(self, name: str) -> None:
        """For servers that have these weights, given by another rank. Raises EngineError when patience ends."""
        deadline = time.monotonic() + self._patience_s + CONTROL_TIMEOUT_S
        while time.monotonic() < deadline:
            for server in self.all:
                if server.weights_it_has() == name:
                    server.weights = name
            if self.serving():
                return
            time.sleep(POLL_S)
        raise EngineError(f"no vLLM server came back with its weights: {', '.join(s.url for s in self.all)}")

    def _raise_if_hopeless(self) -> None:
        """An own server that cannot start for its configuration never will."""
        for server in self.all if self._everyone else []:
            if server.process is not None and server.process.poll() is not None:
                assert server.log is not None
                lines = server.log.read_text(errors="replace").strip().splitlines() or ["no output"]
                raise EngineError(f"a vLLM server did not start, see {server.log}: {lines[-1]}")

    def _check(self, server: Server) -> None:
        """Raises ConfigError for a server that would give other numbers than the trainer thinks."""
        if server.checked:
            return
        refuse_public(server.url)
        check_version(server.get("/version")["version"], f"of {server.url}")
        try:
            config = server.get("/server_info?config_format=json")["vllm_config"]
        except httpx.HTTPStatusError as error:
            raise ConfigError(f"vLLM server {server.url} wants VLLM_SERVER_DEV_MODE=1: {in_one_line(error)}") from error
        transfer = config.get("weight_transfer_config") or {}
        for name, found, wanted in (
            ("--logprobs-mode", config["model_config"]["logprobs_mode"], "processed_logprobs"),
            ("--weight-transfer-config: backend", transfer.get("backend"), self._backend),
        ):
            if found != wanted:
                raise ConfigError(f"vLLM server {server.url}: {name} is {found}, wanted {wanted}")
        if (length := config["model_config"]["max_model_len"]) < self._max_model_len:
            raise ConfigError(f"vLLM server {server.url}: --max-model-len is {length}, wanted {self._max_model_len}")
        server.num_workers = int(server.get("/get_world_size")["world_size"])
        server.checked = True

    def close(self) -> None:
        atexit.unregister(self.close)
        for server in self.all:  # at the process's end there are no more threads to do it at once in
            server.ask_to_end()
        for server in self.all:
            server.stop()


def in_one_line(error: httpx.HTTPError) -> str:
    """What happened, with what the server said about it."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP {error.response.status_code} {' '.join(error.response.text.split())[:200]}"
    return f"{type(error).__name__} {error}"


def at_once(servers: Sequence[Server], act: Callable[[Server], T]) -> list[T]:
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        return list(pool.map(act, servers))


def healthy(servers: Sequence[Server]) -> list[Server]:
    return [server for server, well in zip(servers, at_once(servers, Server.is_healthy), strict=True) if well]


def on_all(servers: Sequence[Server], act: Callable[[Server], Any]) -> list[Server]:
    """Those on which it worked, all asked at once; what fails is logged."""

    def attempt(server: Server) -> bool:
        try:
            act(server)
        except httpx.HTTPError as error:
            logger.warning("vLLM server %s: %s", server.url, in_one_line(error))
            return False
        return True

    return [server for server, worked in zip(servers, at_once(servers, attempt), strict=True) if worked]


def refuse_public(url: str) -> None:
    """The routes that take weights ask for no password. Raises ConfigError for an address that everybody may reach.

    Names of pods that do not run yet have none; it is asked again when the server answers.
    """
    try:
        found = {info[4][0] for info in socket.getaddrinfo(urlsplit(url).hostname, None)}
    except OSError:
        return
    if public := [address for address in found if ipaddress.ip_address(address).is_global]:
        raise ConfigError(f"engine.urls: {url} is {public[0]}, no private address; its routes take anybody's weights")


def own_server(
    devices: str, model: str, config: EngineConfig, max_model_len: int, dtype: torch.dtype, backend: str, log: Path
) -> Server:
    """A server on a free port of loopback, not started yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype_name(dtype)]
    command += ["--max-model-len", str(max_model_len), "--max-num-seqs", str(config.max_rows)]
    command += ["--logprobs-mode", "processed_logprobs", "--enable-prefix-caching", "--generation-config", "vllm"]
    command += ["--enable-scale-out"]  # the route with tokens in and out
    command += ["--weight-transfer-config", json.dumps({"backend": backend})]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "CUDA_VISIBLE_DEVICES": devices}
    if devices:
        command += ["--tensor-parallel-size", str(len(devices.split(",")))]
    else:
        command += ["--worker-extension-cls", "trainer.engine.vllm_worker.WeightReceiver", "--enforce-eager"]
        command += ["--kv-cache-memory-bytes", str(config.kv_cache_mb << 20)]
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    return Server(f"http://127.0.0.1:{port}", command=command, environment=environment, log=log)
