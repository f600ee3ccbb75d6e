"""Folders that one process holds, or writes so that a crash at any moment leaves no half of a new one; their hashes."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import ConfigError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder and keep others out of it until the block, or the process, ends.

    Raises ConfigError where someone else is in it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another trainer is at work in it") from None
        except OSError:
            pass  # a file system without locks
        yield


@contextmanager
def folder_atomically(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `folder` when the block ends without an error.

    A folder already there is put aside just before; after a crash in that moment `finish_replacing` puts it back.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    for path in temporary.rglob("*"):
        if path.is_file():
            sync_file(path)
    aside = folder.with_name(f".{folder.name}.old")
    if folder.exists():
        folder.replace(aside)
    temporary.replace(folder)
    sync_directory(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def finish_replacing(parent: Path) -> None:
    """Put folders back that a crash left aside; nothing else may be writing in `parent`."""
    for aside in parent.glob(".*.old"):
        folder = aside.with_name(aside.name.removeprefix(".").removesuffix(".old"))
        if folder.exists():
            shutil.rmtree(aside)
        else:
            aside.replace(folder)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_directory(folder: Path) -> None:
    """Make names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> dict[str, str]:
    """Hash of every file, by its path relative to the folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}
