"""`verifier serve`: the API, and without `--redis-url` everything behind it too."""

import contextlib
import ipaddress
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import httpx
import uvicorn

from verifier_service.app import create_app
from verifier_service.auth import Keys
from verifier_service.embedded import Embedded
from verifier_service.errors import BadInput, CommandError
from verifier_service.settings import Settings

START_S = 60.0


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises `BadInput` where the service would be open to strangers, or to nobody; `CommandError` where the address or
    Redis is not to be had, or a part of the service ends by itself.
    """
    if settings.api_keys_file is not None:
        try:
            settings.api_keys_file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"api_keys_file: {settings.api_keys_file} cannot be read: {error}") from error
    if not (Keys(settings).required or settings.allow_anonymous or is_loopback(settings.host)):
        raise BadInput(
            f"no API key is configured: give --api-keys-file, or bind to 127.0.0.1 instead of {settings.host}, "
            "or say --allow-anonymous"
        )
    # The server re-raises the signal that ended it; as an exception it lets everything below be taken down in order.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _exit)
    with _listen(settings.host, settings.port) as listener, _redis(settings) as (redis_url, embedded):
        server = _server(settings, redis_url)
        if embedded is not None:
            threading.Thread(target=_stop_when_broken, args=(server, embedded), daemon=True).start()
        server.run([listener])
        if embedded is not None and (said := embedded.died()) is not None:
            raise CommandError(said)


@contextlib.contextmanager
def local_service(settings: Settings) -> Iterator[str]:
    """A complete service behind this program's back: its URL, once it is ready to grade."""
    with _listen("127.0.0.1", 0) as listener, _redis(settings) as (redis_url, _embedded):
        server = _server(settings, redis_url)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            _await_ready(url)
            yield url
        finally:
            server.should_exit = True
            thread.join()


def _server(settings: Settings, redis_url: str) -> uvicorn.Server:
    config = uvicorn.Config(
        create_app(settings, redis_url),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.drain_s),
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    """Before anything else is started, so that a taken port costs nothing. Raises `CommandError`."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise CommandError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _await_ready(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        # No proxy of the environment, which knows nothing of our loopback; a busy host may be slow to answer.
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise CommandError(f"no worker was ready within {START_S:.0f} s")
        time.sleep(0.02)


@contextlib.contextmanager
def _redis(settings: Settings) -> Iterator[tuple[str, Embedded | None]]:
    if (address := settings.redis_address) is not None:
        yield address, None
        return
    with Embedded(settings) as embedded:
        yield embedded.redis_url, embedded


def _stop_when_broken(server: uvicorn.Server, embedded: Embedded) -> None:
    """A service whose Redis is gone for good is better restarted by whoever runs it than left half alive."""
    while embedded.died() is None:
        time.sleep(0.5)
    server.should_exit = True


def _exit(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
