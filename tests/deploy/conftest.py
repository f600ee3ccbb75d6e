"""What the deployment files say, read once: the compose file with its defaults filled in."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose_project import Compose
from tests.deploy.manifests import OVERLAYS, Overlay, rendered
from tests.verifier_service.service_process import free_port

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


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> Overlay:
    return rendered(request.param)


@pytest.fixture(scope="session")
def deployment() -> Iterator[Compose]:
    """Images built, nothing started yet: tests/deploy/test_compose_up.py does that, and the modules after it go on."""
    project = Compose(free_port())
    project.build()
    try:
        yield project
    finally:
        project("down", "--volumes", "--timeout", "5", check=False, COMPOSE_PROFILES="default")
