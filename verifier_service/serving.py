"""`verifier serve`: the API, and without `--redis-url` everything behind it too."""

import contextlib
import ipaddress
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn

from verifier_service.app import create_app
from verifier_service.auth import Keys
from verifier_service.embedded import Embedded
from verifier_service.settings import Settings


class ServeRefused(Exception):
    """The service would be open to strangers; the message says what to do."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises `ServeRefused`, `embedded.NoRedis`."""
    if not (Keys(settings).required or settings.allow_anonymous or is_loopback(settings.host)):
        raise ServeRefused(
            f"no API key is configured: give --api-keys-file, or bind to 127.0.0.1 instead of {settings.host}, "
            "or say --allow-anonymous"
        )
    # The server re-raises the signal that ended it; as an exception it lets everything below be taken down in order.
    signal.signal(signal.SIGTERM, _exit)
    with _redis(settings) as (redis_url, embedded):
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(settings, redis_url),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=int(settings.drain_s),
            )
        )
        if embedded is not None:
            threading.Thread(target=_stop_when_broken, args=(server, embedded), daemon=True).start()
        server.run()


@contextlib.contextmanager
def _redis(settings: Settings) -> Iterator[tuple[str, Embedded | None]]:
    if settings.redis_url is not None:
        yield settings.redis_url, None
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
