"""The child's side of an isolated function: read a call, make it, write what came out.

Frames on descriptors 3 (calls) and 4 (replies): length in 4 bytes, big-endian, then JSON. The first frame is the
function's name; each further one is `{"payload": ...}`, answered by `{"value": ...}`, `{"error": "ValueError: ..."}` or
`{"error": "MemoryError"}`, with `peak_bytes` of this process.
"""

import importlib
import json
import os
import resource
from typing import Any

CALLS, REPLIES = 3, 4


def serve() -> None:
    """Answer calls until the caller hangs up."""
    name = _read_frame()
    if name is None:
        return
    module, _, attribute = json.loads(name).partition(":")
    function = getattr(importlib.import_module(module), attribute)
    while (frame := _read_frame()) is not None:
        _write_frame(_answer(function, frame))


def _answer(function: Any, frame: bytes) -> bytes:
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        value = function(json.loads(frame)["payload"])
        return json.dumps({"value": value, "peak_bytes": peak_bytes}).encode()
    except MemoryError:
        return b'{"error": "MemoryError", "peak_bytes": 0}'
    except Exception as error:  # the function's own failure is an answer; what it means is the caller's to say
        return json.dumps({"error": f"{type(error).__name__}: {error}"[:2000], "peak_bytes": peak_bytes}).encode()


def _read_frame() -> bytes | None:
    head = _read_exactly(4)
    return None if head is None else _read_exactly(int.from_bytes(head, "big"))


def _read_exactly(size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(CALLS, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write_frame(data: bytes) -> None:
    view = memoryview(len(data).to_bytes(4, "big") + data)
    while view:
        view = view[os.write(REPLIES, view) :]
