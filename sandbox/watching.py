"""The warm process while its child runs: wait for the end, and answer the supervisor meanwhile.

The messages are those of `zygote`.
"""

import json
import os
import select
import signal
import socket
import time
from typing import NoReturn

_LOOK_MS = 2


def watch(control: socket.socket, pid: int) -> None:
    """Until the child has ended, which stays to be reaped. Leaves with it where the supervisor hangs up."""
    pidfd = os.pidfd_open(pid)
    events = select.poll()
    events.register(pidfd, select.POLLIN)
    events.register(control, select.POLLIN)
    while pidfd not in dict(events.poll()):
        if control.recv(16) == b"":
            _kill_and_leave(pid)
        socket.send_fds(control, [b'{"pidfd": true}'], [pidfd])
    os.close(pidfd)


def watch_without_pidfd(control: socket.socket, pid: int) -> None:
    """The same in gVisor. Whoever reaps a child is the one to kill it, so that its pid is nobody else's."""
    events = select.poll()
    events.register(control, select.POLLIN)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if not events.poll(_LOOK_MS):
            continue
        message = control.recv(16)
        if message == b"":
            _kill_and_leave(pid)
        if message == b"kill":
            os.kill(pid, signal.SIGKILL)
        else:
            spent_s = time.clock_gettime((~pid << 3) | 2)  # as in `running._cpu_clock`
            control.send(json.dumps({"pidfd": False, "spent_s": spent_s}).encode())


def _kill_and_leave(pid: int) -> NoReturn:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os._exit(0)
