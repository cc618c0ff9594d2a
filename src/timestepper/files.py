"""Files that are never half there, and that tell when they were damaged."""

from __future__ import annotations

import hashlib
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from timestepper.errors import ConfigurationError


def expanded(path: str | os.PathLike[str]) -> Path:
    """Replace a leading ``~`` or ``~user`` by the home folder.

    Raises:
        ConfigurationError: there is no such user, or it is not known where the home folder is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"{os.fspath(path)}: it is not known which folder that is; write the path out"
        ) from error


def resolved(path: str | os.PathLike[str]) -> Path:
    """Follow links to where they lead, which need not be there.

    Raises:
        ConfigurationError: it is a link to itself.
    """
    place = Path(os.path.realpath(path))  # Path.resolve raises at a circle, or not, by version.
    if place.is_symlink():
        raise ConfigurationError(f"{os.fspath(path)} is a link to itself; name another path")
    return place


def seen_from(folder: Path, path: Path) -> str:
    """Write the way from a folder to a path, which stays right when both are moved together."""
    place = resolved(path)
    with suppress(ValueError):  # From another drive there is no relative path.
        place = Path(os.path.relpath(place, resolved(folder)))
    return place.as_posix()


def is_text(name: str) -> bool:
    """Tell whether a name is none of those in which Python keeps bytes that are no UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def write_new(path: Path, content: bytes | memoryview) -> Path:
    """Write a file under another name and flush it to the disk; return it, to be renamed.

    Raises:
        OSError: it can't be written, and nothing of it is left.
    """
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        new.unlink(missing_ok=True)
        error.filename = str(path)  # A full disk names none.
        raise
    return new


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that at any moment either the old or the new one is there, whole.

    Raises:
        OSError: it can't be written; the old one is still there.
    """
    write_new(path, content).replace(path)


def write_checked(path: Path, content: bytes) -> None:
    """Write a file atomically, with the checksum beside it that :func:`read_checked` looks at.

    The checksum of the file that was there before stays valid, too: whatever happens between the
    two writes, the file that is there is a good one.

    Raises:
        OSError: it can't be written.
    """
    digests = [_digest(content)]
    if path.exists():
        digests.append(_digest(path.read_bytes()))
    write_atomically(_checksums(path), "".join(f"{digest}\n" for digest in digests).encode())
    write_atomically(path, content)


def read_checked(path: Path) -> bytes:
    """Read a file that :func:`write_checked` has written.

    Raises:
        OSError: it can't be read.
        ValueError: it isn't what was written.
    """
    checksums = _checksums(path)
    # The file first: of what is written meanwhile, the checksum comes before the file.
    content = path.read_bytes()
    if checksums.exists() and _digest(content) not in checksums.read_text("utf-8").split():
        raise ValueError("its checksum is wrong")
    return content


def require_undamaged(file: IO[bytes]) -> None:
    """Compare what a file of torch.save's holds with its checksums, at which torch doesn't look.

    Args:
        file: read from its start, and left there.

    Raises:
        ValueError: something is damaged.
        BadZipFile: it is none of torch.save's.
    """
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of its {damaged} is wrong")
    file.seek(0)


def _checksums(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
