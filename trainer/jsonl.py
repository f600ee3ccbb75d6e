"""Files of JSON lines that survive a kill."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """The file has either its old content or the new one, whenever the power goes."""
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def whole_lines(path: Path) -> list[str]:
    """The file's lines; a last one that a kill cut short is left out, and a missing file has none."""
    # Not splitlines: that splits at U+2028 too, which JSON text may hold.
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One object a line; see `whole_lines`."""
    return [json.loads(line) for line in whole_lines(path)]
