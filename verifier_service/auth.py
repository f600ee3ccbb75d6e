"""API keys: several at once, from a file or the environment, read again every second."""

import hashlib
import hmac
import logging
import time
from pathlib import Path

from verifier_service.problems import Refusal
from verifier_service.settings import Settings

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ANONYMOUS = "anonymous"


class Keys:
    def __init__(self, settings: Settings) -> None:
        self._file: Path | None = settings.api_keys_file
        self._fixed = [key.strip() for key in settings.api_keys.split(",") if key.strip()]
        self._from_file: list[str] = []
        self._looked_at = 0.0
        self._look()

    @property
    def required(self) -> bool:
        return self._file is not None or bool(self._fixed)

    def owner(self, authorization: str | None) -> str:
        """Who asks: a digest of the key. Raises `Refusal` 401."""
        if not self.required:
            return ANONYMOUS
        scheme, _space, given = (authorization or "").partition(" ")
        self._look()
        # Every key is compared in constant time, whether or not one has matched.
        matches = [hmac.compare_digest(given.strip().encode(), key.encode()) for key in self._from_file + self._fixed]
        if scheme.lower() != "bearer" or not any(matches):
            raise Refusal(401, "unauthorized", "a known key is needed: `Authorization: Bearer KEY`")
        return hashlib.sha256(given.strip().encode()).hexdigest()[:16]

    def _look(self) -> None:
        if self._file is None or time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = time.monotonic()
        try:
            lines = [line.strip() for line in self._file.read_text().splitlines()]
            self._from_file = [line for line in lines if line and not line.startswith("#")]
        except (OSError, UnicodeDecodeError) as error:
            # A key file in the middle of being replaced: the keys read last stay good until it is back.
            log.warning("%s cannot be read: %s", self._file, error)
