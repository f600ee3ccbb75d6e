"""Every knob of the service, read from the environment once (`VERIFIER_<NAME>`), overridden by the command line.

Who sets what: an operator sets addresses, keys and limits; the rest are the vetted values.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, FilePath, model_validator

ENV_PREFIX = "VERIFIER_"


class Settings(BaseModel):
    """Frozen; unknown names are refused, also in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    workers: int = Field(default=2, ge=1, le=1024)
    """Grading processes a lane; set to the number of cores."""
    redis_url: str | None = Field(default=None, pattern="^(rediss?|unix)://")
    """None: the service starts a Redis of its own."""
    redis_password_file: FilePath | None = None
    """Holds the password that `redis_url` leaves out, so that no environment and no command line shows it."""
    api_keys_file: Path | None = None
    """One key a line, `#` comments; read again whenever it changes."""
    api_keys: str = ""
    """Comma-separated keys, for a secret that arrives in the environment."""
    allow_anonymous: bool = False
    """Serve beyond loopback without any key configured."""

    result_ttl_s: int = Field(default=600, ge=1)
    """How long the answer to a `request_id` or a job is kept."""
    max_body_bytes: int = Field(default=64 << 20, ge=1024)
    max_items: int = Field(default=4096, ge=1)
    max_completions: int = Field(default=16384, ge=1)
    """In one request, over all items."""
    max_tests: int = Field(default=2000, ge=1)
    """Tests of one code task."""
    max_queued_chunks: int = Field(default=20_000, ge=1)
    """A lane; past it a request is refused with 429."""

    chunk_target_s: float = Field(default=0.08, gt=0)
    """Estimated grading time that goes into one chunk: tens of milliseconds bound the delay behind a big batch while
    the queue's own cost (about two milliseconds) stays a few percent."""
    cache_size: int = Field(default=100_000, ge=0)
    """Judgements remembered across batches, a lane; 0 switches the cache and in-flight sharing off."""

    lease_s: float = Field(default=5.0, gt=0.5)
    """A chunk whose worker has not renewed its lease for so long is given to another: recovery within 10 s."""
    grader_cpu_s: float = Field(default=30.0, gt=0)
    """CPU seconds of the grader process for one completion; a backstop above the verifiers' own limits."""
    grader_wall_s: float = Field(default=120.0, gt=0)
    """Wall seconds likewise, several times the CPU limit so that a busy host does not change verdicts; the time
    limits of a code task are added on top."""
    grader_memory_mb: int = Field(default=2048, ge=128)
    """Resident memory of the grader process; above it the running completion has hit its limit."""
    recycle_chunks: int = Field(default=5000, ge=1)
    recycle_memory_mb: int = Field(default=1024, ge=64)
    """A worker is replaced after so many chunks, or when its grader has grown so big between two."""
    drain_s: float = Field(default=30.0, gt=0)
    """How long SIGTERM waits for the chunks in hand."""
    alive_file: Path | None = None
    """Touched by the supervisor of workers while its loop turns, for a container's health check."""
    log_level: str = "warning"

    @model_validator(mode="after")
    def _password_has_its_url(self) -> Self:
        if self.redis_password_file is not None and self.redis_url is None:
            raise ValueError("redis_password_file needs redis_url")
        return self

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ, **given: Any) -> Self:
        """Environment first (empty is not set), then what was given (None means not given).

        Raises pydantic's `ValidationError`.
        """
        known = {ENV_PREFIX + name.upper(): name for name in cls.model_fields}
        found: dict[str, Any] = {known[key]: value for key, value in environ.items() if key in known and value}
        return cls(**(found | {name: value for name, value in given.items() if value is not None}))

    def as_environ(self) -> dict[str, str]:
        """What differs from the defaults, for a child process to `load`."""
        return {ENV_PREFIX + name.upper(): str(getattr(self, name)) for name in self.model_fields_set}

    @property
    def redis_address(self) -> str | None:
        """`redis_url` with the password of `redis_password_file`. Raises OSError."""
        if self.redis_url is None or self.redis_password_file is None:
            return self.redis_url
        scheme, _, rest = self.redis_url.partition("://")
        user, _at, host = rest.rpartition("@")
        return f"{scheme}://{user}:{quote(self.redis_password_file.read_text().strip(), safe='')}@{host}"
