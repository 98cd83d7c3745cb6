"""Identity of a case by content: with a corrected label it is a different case, in another folder the same."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seganypet._files import FileHashes
from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import Volume

UNREADABLE = "cannot be read"  # in place of a file's hash


def contents_of_case(case: Any, hashes: FileHashes) -> dict[str, Any]:
    """What identifies a case: its patient, and what its method `contents` names, or else its public attributes."""
    if hasattr(case, "contents"):
        named = case.contents()
    else:
        named = {name: value for name, value in getattr(case, "__dict__", {}).items() if not name.startswith("_")}
    return {"patient": case.patient} | contents_of(named, hashes)


def contents_of(thing: Any, hashes: FileHashes) -> Any:
    """What identifies something by its content, in a form that JSON can hold.

    Args:
        thing: A path (of a file or a folder), a volume, an array, a plain value, or a mapping or sequence of such.
        hashes: Hashes of files that are known already.

    Returns:
        The same with a hash for each path, volume and array; `UNREADABLE` for a file that cannot be read.
    """
    if isinstance(thing, Volume):
        return thing.fingerprint()
    if isinstance(thing, np.ndarray):
        head = f"{thing.dtype}{thing.shape}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(thing).tobytes()).hexdigest()
    if isinstance(thing, Path):
        return _file_contents(thing, hashes)
    if isinstance(thing, Mapping):
        return {str(name): contents_of(value, hashes) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [contents_of(value, hashes) for value in thing]
    if isinstance(thing, np.generic):
        return thing.item()
    if thing is None or isinstance(thing, str | int | float):
        return thing
    return contents_of(thing.contents(), hashes) if hasattr(thing, "contents") else type(thing).__name__


def _file_contents(path: Path, hashes: FileHashes) -> str:
    """Hash of a file, or of the names and contents of a folder's files; `UNREADABLE` if that fails."""
    try:
        if path.is_dir():
            files = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
            return hashlib.sha256("".join(f"{one.name} {hashes.sha256(one)}\n" for one in files).encode()).hexdigest()
        return hashes.sha256(path)
    except (OSError, SegAnyPETError):
        return UNREADABLE  # whoever measures it will say why
