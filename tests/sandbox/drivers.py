"""Drivers that the tests launch: what a native runner does, in small."""

import os
import subprocess


def execute_binary() -> None:
    """Descriptor 3 holds an executable."""
    os.execve(3, ["binary", "one", "two"], {})


def execute_shell() -> None:
    """Descriptor 3 holds a shell script."""
    script = os.read(3, 1 << 16).decode()
    raise SystemExit(subprocess.call(["/usr/bin/dash", "-c", script], env={}))
