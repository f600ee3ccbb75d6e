"""Shared fixtures: one embedded service a session, with a plug-in verifier installed from a wheel."""

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.verifier_service.service_process import ServiceProcess, install_plugin, running_service
from verifier_service.client import Client


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the test plug-in was installed; on `sys.path` for this process too."""
    folder = install_plugin(tmp_path_factory.mktemp("plugin"))
    sys.path.append(str(folder))
    return folder


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Iterator[ServiceProcess]:
    """An embedded service with two workers a lane; tests must not break it."""
    with running_service(tmp_path_factory.mktemp("service"), plugin, workers=2) as running:
        yield running


@pytest.fixture(scope="session")
def http(service: ServiceProcess) -> Iterator[httpx.Client]:
    """Plain HTTP to the session's service."""
    with httpx.Client(base_url=service.url, timeout=120.0) as client:
        yield client


@pytest.fixture(scope="session")
def client(service: ServiceProcess) -> Iterator[Client]:
    """The project's client of the session's service."""
    with Client(service.url) as opened:
        yield opened
