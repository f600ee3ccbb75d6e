"""Messages on a pipe: the length in 4 bytes, big-endian, then the body."""

import os
from collections.abc import Callable


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_frame(descriptor: int, body: bytes) -> None:
    write_all(descriptor, len(body).to_bytes(4, "big") + body)


def read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """By `read`, which gives at most as many bytes as it is asked for. None where the other side has hung up."""
    head = read_exactly(read, 4)
    return None if head is None else read_exactly(read, int.from_bytes(head, "big"))


def read_exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    parts = []
    while size:
        part = read(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
