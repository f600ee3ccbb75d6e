"""The one writable place of a program: sized, and empty for each.

Where there is the right to mount, a tmpfs that is made anew whenever a program has touched it. Where not, a tmpfs that
was mounted beforehand for this slot (compose, Kubernetes), emptied after each program; or none.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable

from sandbox import kernel
from sandbox.namespaces import WORK_DIR, WRITABLE

_MAX_FILES = 4096


class MountedWorkDir:
    path = WORK_DIR
    landlock_path = WRITABLE
    """The folder for which a rule must allow writing."""

    def __init__(self, uid: int, gid: int, *, count_files: bool) -> None:
        """`count_files`: gVisor refuses to."""
        self._options = f"mode=700,uid={uid},gid={gid}" + (f",nr_inodes={_MAX_FILES}" if count_files else "")
        self._size_bytes = 0
        self._change_shows = False
        self._untouched: tuple[int, int] = (0, 0)

    def refresh(self, size_bytes: int) -> None:
        """Make it empty, of `size_bytes`, and the current directory. Raises OSError."""
        same = size_bytes == self._size_bytes and self._change_shows and self._stamp() == self._untouched
        if not same or os.listdir(WORK_DIR):
            self._mount(size_bytes)

    def _mount(self, size_bytes: int) -> None:
        os.chdir("/")
        if self._size_bytes:
            kernel.umount(WORK_DIR)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("tmpfs", WORK_DIR, "tmpfs", flags, f"{self._options},size={size_bytes}")
        os.chdir(WORK_DIR)
        if not self._size_bytes:
            self._change_shows = _every_change_shows(WORK_DIR)
        self._size_bytes = size_bytes
        self._untouched = self._stamp()

    def _stamp(self) -> tuple[int, int]:
        now = os.stat(WORK_DIR)
        return now.st_ctime_ns, now.st_mode


def _every_change_shows(folder: str) -> bool:
    """Whether two changes in a row always have different times, as since Linux 6.13; saves most of the mounts."""
    times = set()
    for _ in range(5):
        os.chmod(folder, 0o700)
        times.add(os.stat(folder).st_ctime_ns)
    return len(times) == 5


class SlotDir:
    """A folder mounted beforehand, held by a lock that ends with this process."""

    def __init__(self, path: str, descriptor: int, uid: int | None) -> None:
        self.path = self.landlock_path = path
        self._descriptor = descriptor
        self._uid = uid

    def refresh(self, _size_bytes: int) -> None:
        """Make it empty and the current directory; its size is what it was mounted with. Raises OSError."""
        os.chdir(self.path)
        self.clear()
        if os.listdir(self._descriptor):
            raise OSError(f"{self.path} cannot be emptied")

    def clear(self) -> None:
        """As the uid that filled it: where slots have uids of their own, that of an earlier process, which is gone."""
        if not os.listdir(self._descriptor):
            return
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):  # the forked child must end here; the parent looks at what is left
                if self._uid is not None:
                    owner = os.stat(os.listdir(self._descriptor)[0], dir_fd=self._descriptor, follow_symlinks=False)
                    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
                os.fchdir(self._descriptor)
                _remove_all()
            os._exit(0)
        os.waitpid(pid, 0)


def _remove_all() -> None:
    """All that the current directory holds, whatever the depth, the names and the modes."""
    levels = [os.listdir()]
    while levels:
        if not levels[-1]:
            levels.pop()
            if levels:
                os.chdir("..")
                os.rmdir(levels[-1].pop())
            continue
        name = levels[-1][-1]
        try:
            os.unlink(name)
            levels[-1].pop()
        except IsADirectoryError:
            os.chmod(name, 0o700)
            os.chdir(name)
            levels.append(os.listdir())


WorkDir = MountedWorkDir | SlotDir


def claim(candidates: Iterable[str], uid: int | None) -> SlotDir | None:
    """The first of `candidates` that is a mount of its own and that nobody else holds; None where there is none."""
    for path in candidates:
        if not os.path.ismount(path):
            continue
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        return SlotDir(path, descriptor, uid)
    return None
