"""Which languages this host can run."""

from collections.abc import Mapping


def available_languages() -> Mapping[str, str]:
    """Language to toolchain."""
    return {"python": "python"}
