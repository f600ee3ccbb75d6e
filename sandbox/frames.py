"""Messages on a pipe: the length in 4 bytes, big-endian, then the body."""

import os


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_frame(descriptor: int, body: bytes) -> None:
    write_all(descriptor, len(body).to_bytes(4, "big") + body)


def read_frame(descriptor: int) -> bytes | None:
    """None where the other side has hung up."""
    head = _read_exactly(descriptor, 4)
    return None if head is None else _read_exactly(descriptor, int.from_bytes(head, "big"))


def _read_exactly(descriptor: int, size: int) -> bytes | None:
    parts = []
    while size:
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
