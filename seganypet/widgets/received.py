"""What a browser sent, opened: files of unknown origin, which may be broken, enormous, or bombs."""

import gzip
import math
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import pydicom

from seganypet._files import make_folder, writing
from seganypet.cohort.dicom_choice import choose_series
from seganypet.cohort.dicom_studies import DicomSeries, find_studies
from seganypet.errors import DicomError, SegAnyPETError, VolumeError
from seganypet.pet.dicom import load_dicom
from seganypet.pet.dicom_files import open_files
from seganypet.pet.volume import Volume, load_volume

# A gzipped file may grow a thousandfold. Twice the voxels of the finest whole-body scanners; 2.4 GB while it is read.
MAX_VOXELS = 200_000_000
MAX_HEADER_BYTES = 10_000_000  # extensions are read whole, too
MAX_UNPACKED_BYTES = 3_000_000_000  # of a study: a PET and a CT of that many voxels, and others beside them
MAX_FILES = 20_000


def load_study(archive: Path, folder: Path, name: str) -> tuple[Volume, Volume | None]:
    """The PET of a ZIP archive of DICOM files, and the CT that belongs to it, by the rules of `cohort.dicom_choice`.

    Args:
        archive: The archive; no name in it decides where something is written.
        folder: Empty folder, where the PET's files stay: a DICOM SEG refers to them.
        name: What messages call the archive.

    Returns:
        PET in SUVbw, and CT in HU; None if none belongs to it.

    Raises:
        SegAnyPETError: Damaged, too large, of several studies, or without a PET whose SUV can be computed.
    """
    files, unpacked = folder / "files", folder / "pet"
    try:
        _unpack(archive, files)
        studies, damaged, _ = find_studies(files)
        if len(studies) != 1:
            reasons = " ".join(damaged[:3]) or "Choose the folder of one examination."
            raise DicomError(f"{name} holds {len(studies)} studies; expected one. {reasons}")
        choice = choose_series(studies[0], masks=False)
        for series in filter(None, (choice.pet, choice.ct)):
            _check_size(series)
        make_folder(unpacked)
        for file in choice.pet.files:
            os.replace(file, unpacked / file.name)
        pet = load_dicom(unpacked, choice.pet.uid)
        # Tables and journals name the upload, not a folder of the machine that runs the app.
        pet = replace(pet, source=name, metadata={**pet.metadata, "series_folder": str(unpacked)})
        ct = None if choice.ct is None else replace(load_dicom(files, choice.ct.uid), source=name)
        return pet, ct
    except SegAnyPETError as error:
        raise type(error)(str(error).replace(str(archive), name).replace(str(folder), name)) from error
    finally:
        shutil.rmtree(files, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    """Write the members of an archive under numbers."""
    make_folder(folder)
    if not zipfile.is_zipfile(archive):
        raise DicomError(f"{archive} is damaged, or no ZIP archive. Was it cut short on its way?")
    with open_files(archive) as members, writing(folder):
        total = sum(member.archive.getinfo(member.member).file_size for member in members if member.archive)
        if total > MAX_UNPACKED_BYTES or len(members) > MAX_FILES:
            raise DicomError(
                f"{archive} holds {len(members)} files of {total / 1e9:.3g} GB; this app takes up to {MAX_FILES} of "
                f"{MAX_UNPACKED_BYTES / 1e9:g} GB. Leave out the series that are not needed."
            )
        for number, member in enumerate(members):
            with member.open() as stream, (folder / f"{number:05}").open("wb") as file:
                shutil.copyfileobj(stream, file)


def _check_size(series: DicomSeries) -> None:
    header = pydicom.dcmread(series.files[0], stop_before_pixels=True, force=True)
    voxels = series.slices * int(header.get("Rows") or 0) * int(header.get("Columns") or 0)
    if voxels > MAX_VOXELS:
        raise DicomError(
            f"{series.description or series.uid}: {voxels / 1e6:.0f} million voxels; this app takes up to "
            f"{MAX_VOXELS / 1e6:.0f} million."
        )


def load_nifti(path: Path, unit: str, name: str) -> Volume:
    """Read a file of unknown origin; the volume and every message call it `name`.

    Raises:
        SegAnyPETError: Whatever is wrong with it.
    """
    try:
        _check_voxels(path)
        volume = load_volume(path, unit)
    except SegAnyPETError as error:
        raise type(error)(str(error).replace(str(path), name)) from error
    return replace(volume, source=name)


def _check_voxels(path: Path) -> None:
    """VolumeError if the file holds too much; only its first 540 bytes are read, whatever they say of the rest."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"  # whatever its name ends in
        with gzip.open(path) if packed else path.open("rb") as file:
            block = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
        if not kind.may_contain_header(block):
            return
        header = kind(block[: kind.sizeof_hdr], check=False)
        shape, begins = header.get_data_shape(), header.get_data_offset()
    except Exception:
        return  # load_volume says what is wrong with it
    if math.prod(shape) > MAX_VOXELS:
        raise VolumeError(
            f"{path}: {' x '.join(map(str, shape))} voxels; this app takes up to {MAX_VOXELS / 1e6:.0f} million. Crop "
            "or resample it."
        )
    if begins > MAX_HEADER_BYTES:
        raise VolumeError(
            f"{path}: {begins / 1e6:.0f} MB of header before the first voxel; this app takes up to "
            f"{MAX_HEADER_BYTES / 1e6:.0f} MB. Save it again without header extensions."
        )
