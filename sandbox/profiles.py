"""What a warm process has imported and may read: one profile a use, as data."""

import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.zygote import Setup

UID_RANGE = (1_000_000_000, 1_200_000_000)
"""Slots draw their uids here: far from the ids of people, of containers' users and of `nobody`."""

WORK_DIRS_VARIABLE = "SANDBOX_WORK_DIRS"
"""Folders, separated by colons: each a tmpfs mounted for one slot. Set by compose and Kubernetes, whose containers have
no right to mount; nobody else needs it."""

GVISOR_VARIABLE = "SANDBOX_GVISOR"
"""`1`: this runs in gVisor, and what its kernel cannot hold (docs/sandbox.md) is accepted. Set by the Docker runner for
`runtime="runsc"` and by the Kubernetes overlay; refused anywhere else."""

STANDARD_LIBRARY = tuple(
    """
    abc array ast bisect builtins cmath collections collections.abc contextlib copy csv ctypes dataclasses
    datetime decimal enum fractions functools hashlib heapq inspect io itertools json keyword linecache locale
    math numbers operator os pprint queue random re statistics string struct sys textwrap threading time timeit
    traceback types typing unicodedata warnings weakref zlib
    """.split()
)

CONTEST_PACKAGES = ("numpy", "sortedcontainers", "networkx", "more_itertools")

_ALWAYS_READABLE = (
    *("/lib", "/lib64", "/lib32", "/usr/lib", "/usr/lib64", "/usr/lib32", "/etc/ld.so.cache"),
    *("/usr/share/zoneinfo", "/etc/localtime"),
)
_PACKAGES_INSIDE = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True)
class Profile:
    """How to make a warm process."""

    preload: tuple[str, ...] = STANDARD_LIBRARY
    """Imported where they are installed, passed over where not."""
    required: tuple[str, ...] = ()
    """`package.module:function` of ours; their packages and all installed packages can be read."""
    packages: tuple[str, ...] = ()
    """Installed top-level packages that programs may import; nothing else outside the standard library can be read."""
    drivers: tuple[str, ...] = ("sandbox.child:run_program",)
    readable: tuple[str, ...] = ()
    """More files and folders that can be read: headers, a tool chain's data."""
    executable: tuple[str, ...] = ()
    """Files and folders of which jobs that may execute can execute something."""
    uid_range: tuple[int, int] | None = UID_RANGE
    """None: programs keep this process's uid."""
    one_memory_limit: bool = False
    """Over all processes of a job together, where control groups can be made."""
    level: str | None = None
    """One of `slots.LEVELS`, or `slots.GVISOR`; None: the strongest this host allows."""

    @property
    def interpreter(self) -> str:
        """The real interpreter behind a virtual environment or a shim of a version manager."""
        return os.path.realpath(getattr(sys, "_base_executable", sys.executable))

    def setup(self, level: str) -> Setup:
        """As sent to the warm process."""
        places = list(self._places())
        readable = [*_ALWAYS_READABLE, *_standard_library(), *(place for _, place in places), *self.readable]
        return Setup(
            level=level,
            readable=[*dict.fromkeys(readable)],
            executable=[*self.executable],
            sys_path=[*_standard_paths(), *dict.fromkeys(parent for parent, _ in places)],
            preload=[*self.preload, *self.packages],
            drivers=[*self.drivers],
            required=[*self.required],
            work_dirs=[path for path in os.environ.get(WORK_DIRS_VARIABLE, "").split(os.pathsep) if path],
            uid_range=[*(self.uid_range or ())],
        )

    def _places(self) -> Iterator[tuple[str, str]]:
        """(entry for sys.path, what can be read below it)"""
        for name in dict.fromkeys(re.split("[.:]", name)[0] for name in (*self.required, *self.packages)):
            spec = importlib.util.find_spec(name)
            if spec is None:
                continue
            origins = list(spec.submodule_search_locations or []) or ([spec.origin] if spec.origin else [])
            for place in origins:
                parent = os.path.dirname(place)
                yield parent, place
                yield parent, f"{parent}/{name}.libs"  # the shared libraries of a wheel
        if self.required:
            yield from ((path, path) for path in sys.path if os.path.basename(path) in _PACKAGES_INSIDE)


def _standard_paths() -> Sequence[str]:
    library = sysconfig.get_path("stdlib", vars={"base": sys.base_prefix})
    return [str(Path(library)), f"{library}/lib-dynload"]


def _standard_library() -> Iterator[str]:
    """Entry by entry, because installed packages may live inside (`site-packages`) and are no business of programs; and
    the interpreter's own shared libraries."""
    for root in ("/usr/local", sys.base_prefix):
        yield from map(str, Path(root, "lib").glob("*.so*"))
    with os.scandir(_standard_paths()[0]) as entries:
        yield from (entry.path for entry in entries if entry.name not in _PACKAGES_INSIDE)
