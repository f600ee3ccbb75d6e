"""The child's side of an isolated function: read a call, make it, write what came out.

Frames on descriptors 3 (calls) and 4 (replies): length in 4 bytes, big-endian, then JSON. The first frame is the
function's name; each further one is `{"payload": ...}`, answered by `[answer, peak, before, after]`: the answer is
`{"value": ...}`, `{"error": "ValueError: ..."}` or `{"error": "MemoryError"}`, the rest this process's peak of memory
in bytes and its CPU seconds before and after the call.
"""

import importlib
import json
import os
import resource
import time
from functools import partial
from typing import Any

from sandbox.frames import read_frame, write_frame

CALLS, REPLIES = 3, 4


def serve() -> None:
    """Answer calls until the caller hangs up."""
    read = partial(os.read, CALLS)
    name = read_frame(read)
    if name is None:
        return
    module, _, attribute = json.loads(name).partition(":")
    function = getattr(importlib.import_module(module), attribute)
    while (frame := read_frame(read)) is not None:
        write_frame(REPLIES, _answer(function, frame))


def _answer(function: Any, frame: bytes) -> bytes:
    before_s = time.process_time()
    try:
        answer = json.dumps({"value": function(json.loads(frame)["payload"])})
    except MemoryError:
        answer = '{"error": "MemoryError"}'
    except Exception as error:  # the function's own failure is an answer; what it means is the caller's to say
        answer = json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]})
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"[{answer}, {peak_bytes}, {before_s}, {time.process_time()}]".encode()
