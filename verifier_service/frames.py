"""Messages over a socket pair: eight bytes of length, then the message."""

import socket
import struct

LENGTH = struct.Struct("!Q")


def send_frame(sock: socket.socket, data: bytes) -> None:
    sock.sendall(LENGTH.pack(len(data)) + data)


def receive_frame(sock: socket.socket) -> bytes | None:
    """None when the other side hung up."""
    first = sock.recv(LENGTH.size)
    return receive_rest(sock, first) if first else None


def receive_rest(sock: socket.socket, first: bytes) -> bytes:
    while len(first) < LENGTH.size:
        first += _some(sock, LENGTH.size - len(first))
    missing = LENGTH.unpack(first)[0]
    parts = []
    while missing:
        parts.append(_some(sock, missing))
        missing -= len(parts[-1])
    return b"".join(parts)


def _some(sock: socket.socket, at_most: int) -> bytes:
    data = sock.recv(min(at_most, 1 << 20))
    if not data:
        raise ConnectionResetError("the other side hung up in the middle of a frame")
    return data
