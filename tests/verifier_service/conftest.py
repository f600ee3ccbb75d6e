"""What tests of several verifiers share."""

from collections.abc import Iterator

import pytest

from verifier_service.tools import WorkerTools


@pytest.fixture(scope="module")
def tools() -> Iterator[WorkerTools]:
    """The sandbox as a grader has it."""
    opened = WorkerTools()
    yield opened
    opened.close()
