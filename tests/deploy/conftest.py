"""What the deployment files say, read once: the compose file with its defaults filled in."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
VARIABLE = re.compile(r"\$\{[A-Z_]+(?::?-(?P<default>[^${}]*)|:\+[^${}]*)?\}")


def with_defaults(text: str) -> str:
    """`${NAME:-default}` -> `default`, `${NAME:+text}` -> nothing: a clean clone, where no variable is set."""
    while (innermost_gone := VARIABLE.sub(lambda found: found["default"] or "", text)) != text:
        text = innermost_gone
    return text


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(with_defaults((ROOT / "docker-compose.yml").read_text()))
    return loaded
