"""A world of its own for a warm process: empty network, own pids, and a root that holds only what it may read.

Paths keep their names inside, with parents made anew, so that a Python or a virtual environment below a directory which
other users cannot enter (a home of mode 0700) still works after the change of uid.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from sandbox import kernel

WRITABLE = "/box"
WORK_DIR = f"{WRITABLE}/work"
"""Where the tmpfs is mounted. Landlock sees a mount's own root and what is above the mount point, but never the mount
point itself, so the rule that allows writing is for the folder above."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_STREAMS = {"/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"}
_SYSTEM_LINKS = ("/lib", "/lib64", "/lib32", "/bin", "/sbin")
_OLD = "/.old"
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID


def enter(*, user_namespace: bool) -> None:
    """Leave the host's namespaces; the next fork is pid 1 of the new one. Raises OSError where that is not allowed."""
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_NAMESPACES | (kernel.CLONE_NEWUSER if user_namespace else 0))
    if user_namespace:
        if os.path.exists("/proc/self/setgroups"):  # not in gVisor; Linux asks for it before it takes a gid_map
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)


def build_root(readable: Iterable[str], *, with_proc: bool, fixed_devices: bool) -> None:
    """Make a small read-only root of `readable` (files and folders, at their own paths) and step into it. `with_proc`:
    and a /proc for `/dev/stdin`, of which Landlock must keep the rest shut. `fixed_devices`: on read-only mounts, too,
    through which gVisor writes to no device."""
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755,size=1m")
    os.mkdir("/tmp" + _OLD)
    kernel.pivot_root("/tmp", "/tmp" + _OLD)
    os.chdir("/")
    bound: list[str] = []
    for path in sorted(readable):
        if not any(path == parent or path.startswith(parent + "/") for parent in bound) and _bind(
            path, _READ_ONLY | kernel.MS_NODEV
        ):
            bound.append(path)
    for device in DEVICES:
        _bind(device, kernel.MS_NOSUID | kernel.MS_NOEXEC | (kernel.MS_RDONLY if fixed_devices else 0))
    if with_proc:
        _mount_proc()
    for link in _SYSTEM_LINKS:
        if os.path.islink(_OLD + link) and not os.path.lexists(link):
            os.symlink(os.readlink(_OLD + link), link)
    os.makedirs(WORK_DIR)
    if not os.path.exists("/tmp"):
        os.symlink(WORK_DIR, "/tmp")
    kernel.umount(_OLD)
    os.rmdir(_OLD)
    kernel.mount("none", "/", None, kernel.MS_REMOUNT | kernel.MS_BIND | _READ_ONLY | kernel.MS_NODEV)


def _mount_proc() -> None:
    os.mkdir("/proc")
    flags = _READ_ONLY | kernel.MS_NODEV | kernel.MS_NOEXEC
    with contextlib.suppress(OSError):  # not from a container whose own /proc has parts masked
        kernel.mount("proc", "/proc", "proc", flags, "subset=pid,hidepid=ptraceable")
        for link, target in _STREAMS.items():
            os.symlink(target, link)


def _bind(path: str, attributes: int) -> bool:
    source = _OLD + path
    if not os.path.exists(source) or os.path.islink(source):
        return False  # absent, or one of the links made above
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if os.path.isdir(source):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
    elif not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))
    kernel.mount(source, path, None, kernel.MS_BIND | kernel.MS_REC)
    try:
        kernel.set_mount_attributes(path, attributes)
    except OSError:  # before Linux 5.12, and in gVisor
        flags = os.statvfs(path).f_flag & (kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        kernel.mount("none", path, None, kernel.MS_REMOUNT | kernel.MS_BIND | flags | attributes)
    return True
