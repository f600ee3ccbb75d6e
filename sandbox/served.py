"""The child's side of an isolated function: read a call, make it, write what came out.

Frames on descriptors 3 (calls) and 4 (replies): length in 4 bytes, big-endian, then JSON. The first frame is the
function's name; each further one is `{"payload": ...}`, answered by `{"value": ...}`, `{"error": "ValueError: ..."}` or
`{"error": "MemoryError"}`, with `peak_bytes` of this process.
"""

import importlib
import json
import resource
from typing import Any

from sandbox.frames import read_frame, write_frame

CALLS, REPLIES = 3, 4


def serve() -> None:
    """Answer calls until the caller hangs up."""
    name = read_frame(CALLS)
    if name is None:
        return
    module, _, attribute = json.loads(name).partition(":")
    function = getattr(importlib.import_module(module), attribute)
    while (frame := read_frame(CALLS)) is not None:
        write_frame(REPLIES, _answer(function, frame))


def _answer(function: Any, frame: bytes) -> bytes:
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        value = function(json.loads(frame)["payload"])
        return json.dumps({"value": value, "peak_bytes": peak_bytes}).encode()
    except MemoryError:
        return b'{"error": "MemoryError", "peak_bytes": 0}'
    except Exception as error:  # the function's own failure is an answer; what it means is the caller's to say
        return json.dumps({"error": f"{type(error).__name__}: {error}"[:2000], "peak_bytes": peak_bytes}).encode()
