"""The precompiled `bits/stdc++.h`: made once a compiler, in the sandbox, and kept in the user's cache folder.

Contest programs include all of the standard library, which costs more to read than everything else about them.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.languages import Toolchain
from sandbox.types import ExecutionResult

_FLAGS_OF_A_HEADER = ("-x", "c++-header")


def include_folder(toolchain: Toolchain, make: Callable[..., Any]) -> Path | None:
    """The folder to put first on the include path; None where there is no place to keep it or it cannot be made."""
    key = hashlib.sha256(f"{toolchain.version}{toolchain.compile_command}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "prolonged-rl" / f"include-{key}"
    header = folder / "bits" / "stdc++.h.gch"
    if not header.exists():
        compiler, *flags = toolchain.compile_command
        flags = flags[: flags.index("-static")]
        command = (compiler, *flags, *_FLAGS_OF_A_HEADER, "-o", "program", "stdc++.h")
        made = make(toolchain, command, toolchain.compile_readable, b"#include <bits/stdc++.h>\n", "stdc++.h")
        if isinstance(made, ExecutionResult) or not _keep(header, made.read()):
            return None
    return folder


def _keep(path: Path, content: bytes) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.parent.chmod(0o755)  # the sandbox reads it under another uid
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError:
        return False
    return True
