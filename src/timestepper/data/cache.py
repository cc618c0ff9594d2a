"""Decoded image folders, kept as one file each."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
from pathlib import Path

from torch import Tensor

from timestepper.errors import ConfigurationError
from timestepper.files import is_text

log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Say where caches go: ``$XDG_CACHE_HOME/timestepper``, else ``~/.cache/timestepper``.

    Raises:
        ConfigurationError: the variable is not set, and there is no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "timestepper"
    except RuntimeError as error:
        raise ConfigurationError(
            "it is not known where the home folder is, in which caches are kept; set HOME or "
            "XDG_CACHE_HOME"
        ) from error


def entry(cache_dir: Path, folder: Path, image_size: int | None) -> Path:
    """Name the cache file of an image folder.

    Args:
        cache_dir: folder of all caches.
        folder: the image folder.
        image_size: the size that its images are resized to, if they are.

    Returns:
        A path in ``cache_dir`` that belongs to this folder and size alone.
    """
    place = folder.resolve()
    named = f"{place}\0{image_size}".encode(errors="surrogateescape")
    key = hashlib.sha256(named).hexdigest()[:16]
    name = place.name if is_text(place.name) else "images"  # safetensors takes UTF-8 alone
    return cache_dir / f"{name}-{key}.safetensors"


def recall(path: Path, fingerprint: str) -> dict[str, Tensor] | None:
    """Read a cache file.

    Args:
        path: the cache file.
        fingerprint: of the image folder as it is now.

    Returns:
        The tensors by name, or None if there is no file, a broken one, or one that was made
        of a folder with another fingerprint.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("cache %s cannot be read (%s); decoding the images again", path, error)
        return None


def remember(path: Path, fingerprint: str, tensors: dict[str, Tensor]) -> None:
    """Write a cache file whole or not at all; failing to is logged, and no error.

    Args:
        path: the cache file.
        fingerprint: of the image folder.
        tensors: what to keep.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # A name of its own, as several processes may write at once.
    temporary = path.with_name(f"{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # what the umask lets others do
        save_file(tensors, temporary, metadata={"fingerprint": fingerprint})
        temporary.chmod(mode)  # safetensors writes a file that is its writer's alone
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        log.warning("decoded images are not kept: %s cannot be written (%s)", path, error)
    finally:  # after Ctrl-C, too
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
