"""The inside of a container: our warm runner behind stdin and stdout.

Frames both ways: length in 4 bytes, big-endian, then the body. In: a pickled request (from the host, which is trusted
here). Out: JSON, because nothing that comes out of a container is trusted; the first frame is `{}` or
`{"missing": what keeps the container from isolating programs}`.
"""

import dataclasses
import json
import os
import pickle
from base64 import b64encode
from typing import Any

from sandbox.errors import SandboxError
from sandbox.pool import open_runner
from sandbox.profiles import Profile
from sandbox.slots import open_warm_process

_STDIN, _STDOUT = 0, 1


def main() -> None:
    """Answer requests until the host hangs up."""
    try:
        open_warm_process(Profile(preload=())).close()
    except SandboxError as error:
        return _write_frame({"missing": str(error)})
    _write_frame({})
    runner = open_runner()
    while (body := _read_frame()) is not None:
        _write_frame(dataclasses.asdict(runner.execute(pickle.loads(body))))
    return runner.close()


def _read_frame() -> bytes | None:
    head = _read_exactly(4)
    return None if head is None else _read_exactly(int.from_bytes(head, "big"))


def _read_exactly(size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(_STDIN, size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write_frame(value: dict[str, Any]) -> None:
    body = json.dumps(value, default=_text_of_bytes).encode()
    view = memoryview(len(body).to_bytes(4, "big") + body)
    while view:
        view = view[os.write(_STDOUT, view) :]


def _text_of_bytes(value: bytes) -> str:
    return b64encode(value).decode()
