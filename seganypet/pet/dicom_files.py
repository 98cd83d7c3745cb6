"""Where DICOM files lie: in a folder tree, a DICOMDIR's list, a ZIP archive, or one file that holds all slices."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from seganypet._files import as_path
from seganypet.errors import DicomError

# What pydicom, SimpleITK and zipfile raise on damaged files; a RuntimeError comes from missing or failing decoders and
# from encrypted archives.
UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, MemoryError,
    AssertionError, struct.error, zlib.error, zipfile.BadZipFile, pydicom.errors.InvalidDicomError,
    pydicom.errors.BytesLengthException,
)  # fmt: skip
# An archive of a few kilobytes can unpack to terabytes. A dynamic total-body study has about 6 GiB. Of one file, some
# of which have empty slices only, at most this many bytes come from one byte.
MAX_UNPACKED_BYTES = 8 * 2**30
MAX_COMPRESSION, MAX_EMPTY_BYTES = 20, 2**26
MAX_INFLATED_BYTES = 2**30
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class DicomFile:
    """A file on disk, or a member of an open archive.

    Attributes:
        path: Where it lies, for messages; of a member, the archive's path with the member's name.
        archive: The open archive, None for a file on disk.
    """

    path: Path
    archive: zipfile.ZipFile | None = None
    member: str = ""

    def open(self) -> BinaryIO:
        """A stream of its bytes, at the start."""
        if self.archive is None:
            return self.path.open("rb")
        return io.BufferedReader(self.archive.open(self.member))  # type: ignore[type-var]


def read_dataset(stream: BinaryIO, **options: Any) -> Dataset:
    """What pydicom reads from the start of a stream; warnings of a truncated file are left out.

    Raises:
        ValueError: The file is deflated, and unpacks to more than a scan has.
    """
    _check_inflated_size(stream)
    stream.seek(0)
    with warnings.catch_warnings(action="ignore"):
        return pydicom.dcmread(stream, **options)


def _check_inflated_size(stream: BinaryIO) -> None:
    """Raise ValueError if a deflated file unpacks to more than a scan has, before pydicom unpacks it."""
    stream.seek(0)
    start = stream.read(512)
    if DeflatedExplicitVRLittleEndian.encode() not in start:
        return
    stream.seek(144 + int.from_bytes(start[140:144], "little"))  # behind the group that stays as it is
    inflater, size, packed = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0
    while piece := inflater.unconsumed_tail or stream.read(2**16):
        packed += len(piece) - len(inflater.unconsumed_tail)
        size += len(inflater.decompress(piece, 2**20))
        if size > min(MAX_EMPTY_BYTES + MAX_COMPRESSION * packed, MAX_INFLATED_BYTES):
            raise ValueError(f"it unpacks to more than {size / 2**20:.0f} MiB, which no scan does")


@contextmanager
def open_files(source: str | os.PathLike) -> Iterator[list[DicomFile]]:
    """The files to be looked at; members of an archive can be read as long as the context lasts.

    Args:
        source: A folder, searched with its subfolders; a DICOMDIR, which lists its files; a ZIP archive; or one file.

    Raises:
        DicomError: There is no such folder or file, or the archive is damaged or too large.

    Warns:
        UserWarning: Hidden files of a folder are DICOM, and left out.
    """
    archive, path = None, as_path(source, DicomError)
    try:
        if path.is_dir():
            paths = [one for one in sorted(_tree(path)) if one.is_file()]
            files = [DicomFile(one) for one in paths if one.name[0] != "."]
            _warn_of_hidden(path, [one for one in paths if one.name[0] == "."])
        elif not path.is_file():
            raise DicomError(f"{path} does not exist; expected a folder, a DICOMDIR, a ZIP archive, or a DICOM file.")
        elif zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            files = _members(path, archive)
        else:
            files = _listed_files(path) if path.name.upper() == "DICOMDIR" else [DicomFile(path)]
    except DicomError:
        raise
    except UNREADABLE as error:
        raise DicomError(f"{source}: cannot be opened, or is damaged ({error}). Copy it again.") from error
    try:
        yield files
    finally:
        if archive is not None:
            archive.close()


def _tree(folder: Path) -> Iterator[Path]:
    """All files below a folder; a folder that may not be read is an error, since slices may lie in it."""

    def refuse(error: OSError) -> None:
        raise error

    for root, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(root) / name for name in names)


def _warn_of_hidden(folder: Path, paths: list[Path]) -> None:
    """Warn of hidden files that are DICOM: a slice that somebody hid is missing. Those of macOS ("._") never are."""
    hidden = []
    for path in paths:
        with path.open("rb") as stream:
            if stream.read(132)[128:] == b"DICM":
                hidden.append(path.name)
    if hidden:
        warnings.warn(
            f"{folder}: {len(hidden)} hidden DICOM files, such as {hidden[0]}, are left out; if slices are among them, "
            "rename them.",
            stacklevel=4,
        )


def _members(path: Path, archive: zipfile.ZipFile) -> list[DicomFile]:
    """The archive's files. They are read in place: no name in an archive decides where something is written."""
    members = [
        info
        for info in archive.infolist()
        if PurePosixPath(info.filename).name[:1] not in ("", ".") and not info.is_dir()
    ]
    unpacked = sum(info.file_size for info in members)
    if unpacked > MAX_UNPACKED_BYTES:
        raise DicomError(
            f"{path}: its {len(members)} files unpack to {unpacked / 2**30:.1f} GiB, more than "
            f"{MAX_UNPACKED_BYTES / 2**30:.0f} GiB. If you trust it, unpack it and give the folder."
        )
    # All together are compared with the archive, in which members may share their bytes.
    sizes = [(f"{info.filename} unpacks", info.compress_size, info.file_size) for info in members]
    for what, packed, size in [("it unpacks", path.stat().st_size, unpacked), *sizes]:
        if size > MAX_EMPTY_BYTES + MAX_COMPRESSION * packed:
            raise DicomError(
                f"{path}: {what} from {packed} to {size} bytes, which no scan does. If you trust it, unpack it and "
                "give the folder."
            )
    if any(info.flag_bits & 1 for info in members):
        raise DicomError(f"{path}: an archive with a password. Unpack it and give the folder.")
    damaged = archive.testzip()  # readers stop before the end of a member, where its checksum would be compared
    if damaged is not None:
        raise DicomError(f"{path}: damaged (the checksum of {damaged} is wrong). Copy it again.")
    return [DicomFile(path / info.filename, archive, info.filename) for info in members]


def _listed_files(path: Path) -> list[DicomFile]:
    """The files that a DICOMDIR names; a disc may spell them in another case than the file system."""
    try:
        with path.open("rb") as stream:
            records = read_dataset(stream, force=True).DirectoryRecordSequence
        listed = [
            [str(part) for part in ([names] if isinstance(names, str) else names)]
            for record in records
            if (names := record.get("ReferencedFileID")) and record.get("RecordInUseFlag", 0xFFFF) != 0
        ]
    except UNREADABLE as error:
        raise DicomError(
            f"{path}: not a readable DICOMDIR ({error}). Give its folder instead: all files in it are searched then."
        ) from error
    found = [one for names in listed if (one := _beside(path.parent, names)) is not None]
    if not found:
        raise DicomError(
            f"{path}: none of the {len(listed)} files that it lists lies beside it. Copy the whole disc, or give the "
            "folder of the images."
        )
    if len(found) < len(listed):
        warnings.warn(
            f"{path}: {len(listed) - len(found)} of the {len(listed)} files that it lists are missing; is there a "
            "second disc?",
            stacklevel=4,
        )
    return [DicomFile(one) for one in dict.fromkeys(found)]


def _beside(folder: Path, names: list[str]) -> Path | None:
    """The file at folder/names[0]/names[1]/..., None if it is missing or would lie outside the folder."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            return None
        exact = folder / name
        if not exact.exists():
            spelled = {one.name.lower().removesuffix(";1").rstrip("."): one for one in folder.iterdir()}
            exact = spelled.get(name.lower(), exact)
        if not exact.exists():
            return None
        folder = exact
        if not folder.is_dir():
            break
    return folder if folder.is_file() else None
