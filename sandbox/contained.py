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
from functools import partial
from typing import Any

from sandbox.errors import SandboxError
from sandbox.frames import read_frame, write_frame
from sandbox.profiles import Profile
from sandbox.runner import open_runner
from sandbox.slots import open_warm_process

_STDIN, _STDOUT = 0, 1


def main() -> None:
    """Answer requests until the host hangs up."""
    try:
        open_warm_process(Profile(preload=())).close()
    except SandboxError as error:
        return _write({"missing": str(error)})
    _write({})
    runner = open_runner()
    while (body := read_frame(partial(os.read, _STDIN))) is not None:
        _write(dataclasses.asdict(runner.execute(pickle.loads(body))))
    return runner.close()


def _write(value: dict[str, Any]) -> None:
    write_frame(_STDOUT, json.dumps(value, default=_text_of_bytes).encode())


def _text_of_bytes(value: bytes) -> str:
    return b64encode(value).decode()
