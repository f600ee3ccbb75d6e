"""The precompiled `bits/stdc++.h`: made once a compiler, in the sandbox, and kept in the user's cache folder.

Contest programs include all of the standard library, which costs more to read than everything else about them.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sandbox.languages import Toolchain
from sandbox.types import ExecutionResult

_FLAGS_OF_A_HEADER = ("-x", "c++-header")


def with_precompiled_headers(toolchain: Toolchain, make: Callable[[Toolchain, bytes], Any]) -> Toolchain:
    """With their folder first on the include path; as it is where there is no place for them or they cannot be made."""
    key = hashlib.sha256(f"{toolchain.version}{toolchain.compile_command}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "prolonged-rl" / f"include-{key}"
    header = folder / "bits" / "stdc++.h.gch"
    if not header.exists():
        flags = toolchain.compile_command[: toolchain.compile_command.index("-static")]
        command = (*flags, *_FLAGS_OF_A_HEADER, "-o", "program", "stdc++.h")
        made = make(replace(toolchain, compile_command=command, source_name="stdc++.h"), b"#include <bits/stdc++.h>\n")
        if isinstance(made, ExecutionResult) or not _keep(header, made.read()):
            return toolchain
    return replace(
        toolchain,
        compile_command=(*toolchain.compile_command, f"-I{folder}"),
        compile_readable=(*toolchain.compile_readable, str(folder)),
    )


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
