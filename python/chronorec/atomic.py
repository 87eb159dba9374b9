"""Folders and files that are written whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def obstacle(folder: Path, header: str, kind: str, files: Collection[str]) -> str | None:
    """Why a new folder must not take this place, or None.

    It may where nothing is yet, or an empty folder, or a folder of the same kind: one whose file ``header``
    says ``kind``, and which holds no others than ``files``.
    """
    folder = Path(os.path.realpath(folder))
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        others = sorted(names - set(files))
        if others:
            return f"it holds other files, such as {others[0]!r}"
        if names and not (header in names and kind.encode() in (folder / header).read_bytes()):
            return f"it is not empty and has no {header} that says {kind!r}"
    elif os.path.lexists(folder):
        return "a file of this name is there"
    parent = folder.parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        return f"{parent} is not a folder"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} cannot be written to"
    return None


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of ``folder`` when the block ends without an error.

    Its files are on disk before it does. Where kernel and file system can exchange two names, the place holds
    the old folder or all of the new one at every moment, whatever ends the process; elsewhere a kill between
    two renames leaves the old one beside the place, under a name that starts with a dot.
    """
    folder = Path(os.path.realpath(folder))  # a link stays and what it points to is replaced
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    work.mkdir()
    try:
        yield work
        for path in work.iterdir():
            sync(path)
        sync(work)
        _put(work, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)  # after the exchange: what was replaced


@contextmanager
def new_file(path: str | os.PathLike[str], draft: Path | None = None) -> Iterator[BinaryIO]:
    """A fresh file that takes the place of ``path``, on disk, when the block ends without an error.

    Args:
        draft: where it is written first, on the same file system; a kill may leave it, the next call
            overwrites it. By default beside the file, under a name of its own.
    """
    target = Path(os.path.realpath(path))
    work = draft or target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        with work.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, target)
        sync(target.parent)
    finally:
        work.unlink(missing_ok=True)


def _put(work: Path, folder: Path) -> None:
    """Makes ``work`` the folder; an older one is then called ``work``, or gone."""
    if not folder.exists():
        os.rename(work, folder)
    elif not _exchange(work, folder):
        aside = work.with_name(f"{work.name}.old")
        os.rename(folder, aside)
        try:
            os.rename(work, folder)
        except BaseException:
            os.rename(aside, folder)
            raise
        os.rename(aside, work)


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names in one step; False if the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    rename.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(second))


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
