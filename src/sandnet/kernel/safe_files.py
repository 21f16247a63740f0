"""Files written as root at paths that untrusted clients name: atomically, and never through a symlink.

Every path is opened one component at a time from an allowed directory, each step below it with ``O_NOFOLLOW``
(openat(2)), so that no concurrent rename or link can lead elsewhere. A file appears by rename(2), complete or not at
all.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from sandnet.errors import Error, Kind, invalid

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = ".sandnet"
_ASIDE = ".sandnet-original"
"""Suffixes of files kept beside a file: the one that is being written, and the original."""
MAX_READ = 1 << 20
"""Bytes read of a file that another program may have written."""


class Files:
    """Reads, writes and removes files below the allowed directories, and nowhere else."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = [str(PurePosixPath(path)) for path in allowed]

    def check(self, path: str) -> None:
        """Refuse a path outside the allowed directories, or one of a file that we keep beside another.

        Raises:
            Error: kind ``INVALID``, code ``path_not_allowed``.
        """
        _, parts = self._split(path)
        if parts[-1].startswith(".") and parts[-1].endswith((_TEMPORARY, _ASIDE)):
            hint = (
                f"names that begin with . and end with {_TEMPORARY} or {_ASIDE} are those of files kept beside others"
            )
            raise invalid(f"path not allowed: {path!r}", hint, "path_not_allowed")

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write ``content`` to the file, with that mode; missing parents are made (0755).

        Raises:
            Error: ``INVALID`` when the path is outside the allowed directories, runs through a symlink, or is a
                directory; ``UNAVAILABLE`` when the file system refuses.
        """
        root, parts = self._split(path)
        with _translated(path), _opened(root, parts[:-1], make=True) as parent:
            _refuse_unless_file(parent, parts[-1], path)
            _replace(parent, parts[-1], content, mode)

    def read(self, path: str) -> bytes | None:
        """Return the file's content (its first MiB), or ``None``: no such regular file, or its directory is not
        allowed.
        """
        try:
            root, parts = self._split(path)
        except Error:  # the operator no longer allows the directory
            return None
        try:
            with _opened(root, parts[:-1], make=False) as parent:
                fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_READ)

    def remove_leftovers(self, path: str) -> None:
        """Remove what an interrupted write of the file left.

        Raises:
            Error: as :meth:`remove_directory`.
        """
        root, parts = self._split(path)
        with _ignoring_foreign(path), _opened(root, parts[:-1], make=False) as parent:
            _unlink(parent, _temporary_name(parts[-1]))

    def fingerprint(self, path: str) -> tuple[int, ...]:
        """Return a value that changes whenever a process writes or replaces the file; empty when there is none."""
        try:
            found = os.lstat(path)
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def missing_directories(self, path: str) -> list[str]:
        """Return the directories that :meth:`write` of this file would make, the outermost first.

        Raises:
            Error: as :meth:`check`.
        """
        root, parts = self._split(path)
        for depth in range(len(parts)):
            try:
                with _opened(root, parts[:depth], make=False):
                    continue
            except FileNotFoundError:
                return ["/".join((root, *parts[:below])) for below in range(depth, len(parts)) if below]
            except OSError:  # a link or a file is in the way: the write will report it
                return []
        return []

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory.

        One that is absent or not empty is success. One outside the allowed directories stays, as with :meth:`remove`.

        Raises:
            Error: ``UNAVAILABLE`` when the file system refuses.
        """
        try:
            root, parts = self._split(path)
        except Error:
            return
        with _ignoring_foreign(path), _opened(root, parts[:-1], make=False) as parent:
            os.rmdir(parts[-1], dir_fd=parent)

    def remove(self, path: str, *, prune: bool = False) -> None:
        """Remove the file, and what an interrupted write of it left.

        Absent ones are success. Anything but a regular file belongs to another program and stays. So does a file in a
        directory that is no longer allowed.

        Args:
            path: of the file.
            prune: remove its directory too when that becomes empty.
        """
        try:
            root, parts = self._split(path)
        except Error:
            return
        with _ignoring_foreign(path), _opened(root, parts[:-1], make=False) as parent:
            _unlink(parent, _temporary_name(parts[-1]))
            if _is_regular(parent, parts[-1]):
                _unlink(parent, parts[-1])
        if prune and len(parts) > 1:
            self.remove_directory("/".join((root, *parts[:-1])))

    def has_foreign_file(self, path: str) -> bool:
        """Return whether another program has a regular file there, perhaps renamed by an earlier :meth:`set_aside`."""
        try:
            root, parts = self._split(path)
            with _opened(root, parts[:-1], make=False) as parent:
                return _is_regular(parent, parts[-1]) or _is_regular(parent, _original_name(parts[-1]))
        except (Error, OSError):
            return False

    def set_aside(self, path: str) -> None:
        """Rename another program's file, to be restored as it is: content, mode, owner and all else.

        A file that was set aside before stays the original, and nothing is renamed: the file at the path is ours by
        then.

        Raises:
            Error: as :meth:`write`.
        """
        root, parts = self._split(path)
        name = parts[-1]
        with _translated(path), suppress(FileNotFoundError), _opened(root, parts[:-1], make=False) as parent:
            if not _is_regular(parent, _original_name(name)) and _is_regular(parent, name):
                os.rename(name, _original_name(name), src_dir_fd=parent, dst_dir_fd=parent)

    def restore_original(self, path: str) -> None:
        """Undo :meth:`set_aside`: the original replaces what we wrote since.

        Nothing changes where nothing was set aside. If another program has put anything but a regular file there, that
        stays, and the original stays set aside.

        Raises:
            Error: as :meth:`remove_directory`.
        """
        try:
            root, parts = self._split(path)
        except Error:
            return
        name = parts[-1]
        with _ignoring_foreign(path), _opened(root, parts[:-1], make=False) as parent:
            _unlink(parent, _temporary_name(name))
            if _is_regular(parent, _original_name(name)) and (_is_regular(parent, name) or not _is_there(parent, name)):
                os.rename(_original_name(name), name, src_dir_fd=parent, dst_dir_fd=parent)

    def discard_original(self, path: str) -> None:
        """Remove the file that :meth:`set_aside` kept.

        Raises:
            Error: as :meth:`remove_directory`.
        """
        try:
            root, parts = self._split(path)
        except Error:
            return
        with _ignoring_foreign(path), _opened(root, parts[:-1], make=False) as parent:
            _unlink(parent, _temporary_name(parts[-1]))
            _unlink(parent, _original_name(parts[-1]))

    def _split(self, path: str) -> tuple[str, tuple[str, ...]]:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        plain = "/" + "/".join(parts)
        if path.startswith("/") and ".." not in parts and "\0" not in path:
            for root in self._allowed:
                if plain.startswith(root + "/"):
                    return root, tuple(plain[len(root) + 1 :].split("/"))
        places = ", ".join(self._allowed)
        raise invalid(f"path not allowed: {path!r}", f"use an absolute path below {places}", "path_not_allowed")


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        if failure.errno in (errno.ELOOP, errno.ENOTDIR):
            hint = "name a path whose every directory is a real directory"
            raise invalid(f"{path} runs through a symlink or a file", hint, "path_not_allowed") from failure
        raise Error(Kind.UNAVAILABLE, f"cannot write {path}: {failure.strerror}") from failure


@contextmanager
def _ignoring_foreign(path: str) -> Iterator[None]:
    """Treat absent files as success, and leave other programs' files."""
    try:
        yield
    except OSError as failure:
        if failure.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR, errno.ELOOP, errno.EBUSY):
            raise Error(Kind.UNAVAILABLE, f"cannot remove {path}: {failure.strerror}") from failure


@contextmanager
def _opened(root: str, directories: Sequence[str], *, make: bool) -> Iterator[int]:
    """Yield a descriptor of the directory ``root/directories…``. The root itself is trusted: the operator chose it."""
    current = _open_root(root, make=make)
    try:
        for name in directories:
            below = _open_below(current, name, make=make)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


def _open_root(root: str, *, make: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(root, flags)
    except FileNotFoundError:
        if not make:
            raise
    os.makedirs(root, mode=0o755, exist_ok=True)
    return os.open(root, flags)


def _open_below(parent: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _unlink(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def _refuse_unless_file(parent: int, name: str, path: str) -> None:
    try:
        mode = os.lstat(name, dir_fd=parent).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a symlink" if stat.S_ISLNK(mode) else "no regular file"
        raise invalid(f"{path} is {what}", "name a regular file, or one that does not exist yet", "path_not_allowed")


def _is_regular(parent: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(name, dir_fd=parent).st_mode)
    except FileNotFoundError:
        return False


def _temporary_name(name: str) -> str:
    """Return the temporary name: one for each file, so that the remains of a killed writer are found.

    Writers of one file take turns.
    """
    return f".{name}{_TEMPORARY}"


def _original_name(name: str) -> str:
    """Return the name of the original that was there before our file."""
    return f".{name}{_ASIDE}"


def _is_there(parent: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    return True


def _replace(parent: int, name: str, content: bytes, mode: int) -> None:
    temporary = _temporary_name(name)
    fd = _create(parent, temporary, mode)
    try:
        try:
            os.fchmod(fd, mode)
            _write_all(fd, content)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        _unlink(parent, temporary)
        raise


def _create(parent: int, name: str, mode: int) -> int:
    """Create a file; replace one that an interrupted write has left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, mode, dir_fd=parent)
    except FileExistsError:
        _unlink(parent, name)
    return os.open(name, flags, mode, dir_fd=parent)


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]
