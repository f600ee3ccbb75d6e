"""Import a library without the plotting that it never does here.

Reasoning Gym's game of life imports cellpylib, which imports matplotlib, which wants a writable home at import (the
sandbox has none), half a second and 40 MB. Only cellpylib's plotting functions use it, and nobody calls those.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_PLOTTING = (
    *("matplotlib", "matplotlib.pyplot", "matplotlib.animation", "matplotlib.collections"),
    *("mpl_toolkits", "mpl_toolkits.mplot3d"),
)


class _Nothing(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> None:
        return None


@contextmanager
def without_plotting() -> Iterator[None]:
    """Within, importing matplotlib gives empty modules, unless the real one is there already."""
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules.update({name: _Nothing(name) for name in _PLOTTING})
    try:
        yield
    finally:
        for name in _PLOTTING:
            del sys.modules[name]
