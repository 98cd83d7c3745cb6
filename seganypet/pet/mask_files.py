"""Masks as other programs keep them: NIfTI with names, `.seg.nrrd`, DICOM SEG, RTSTRUCT, STL.

| file                    | overlaps | names | needs the DICOM series | read |
|-------------------------|----------|-------|------------------------|------|
| `.nii`, `.nii.gz`       | no       | yes   | no                     | yes  |
| folder of `.nii.gz`     | yes      | yes   | no                     | yes  |
| `.seg.nrrd`             | yes      | yes   | no                     | yes  |
| `.dcm` (SEG)            | yes      | yes   | yes                    | yes  |
| `RTSTRUCT*.dcm`         | yes      | yes   | yes                    | yes  |
| `.stl`, one for each    | yes      | yes   | no                     | no   |
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import RTStructureSetStorage

from seganypet._files import as_path, check_writable, reading, replace_atomically, unsafe_name
from seganypet.errors import DicomError, GeometryError, SegAnyPETError, VolumeError, readable_name, warn_caller
from seganypet.pet.dicom_files import UNREADABLE, read_dataset
from seganypet.pet.dicom_series import (
    ReferenceSeries,
    check_frame_of_reference,
    read_header,
    reason_of,
    reference_series,
)  # fmt: skip
from seganypet.pet.label_files import read_nifti, read_seg_nrrd, write_nifti, write_seg_nrrd
from seganypet.pet.mask_grid import Layer, masks_on_grid
from seganypet.pet.volume import Volume

Kind = Literal["seg", "rtstruct"]

NIFTI = (".nii", ".nii.gz")
NRRD = (".seg.nrrd", ".nrrd")
_ENDINGS = ".nii.gz, .nii, .seg.nrrd, .dcm (DICOM SEG; RTSTRUCT if the name begins so) or .stl"
_DICOM_NAME = 64  # characters that a name in DICOM may have


def load_masks(path: str | os.PathLike, like: Volume, *, other_frame: bool = False) -> dict[str, np.ndarray]:
    """Read the objects of a segmentation onto the grid of a volume.

    A file on the same grid, turned, mirrored or cropped, is taken over voxel by voxel; one on another grid is resampled
    by nearest voxel, with a warning. Holes in RTSTRUCT may be keyholes or contours within contours.

    Args:
        path: NIfTI label map, `.seg.nrrd` or `.nrrd`, DICOM SEG (binary, fractional, label map) or RTSTRUCT; or a
            folder with one SEG or RTSTRUCT among other DICOM files, or with one NIfTI mask for each object.
        like: Volume with the target grid.
        other_frame: Whether to read DICOM objects of another frame of reference than the volume's.

    Returns:
        Name to mask (bool, shape of `like`) in the order of the file, without objects that have no voxel in it.
        Objects without a name are called "label 3", "segment 3" or as the file.

    Raises:
        VolumeError: The file is missing, damaged or holds no segmentation.
        GeometryError: No object lies within `like`.
        DicomError: A DICOM object is damaged, not one stack of slices, or of another frame of reference.

    Warns:
        UserWarning: Objects were resampled, lie outside in part, were cut from fractions, or share a name.
    """
    path = as_path(path)
    if os.path.isdir(path):
        return _load_folder(path, like, other_frame)
    if not os.path.exists(path):
        raise VolumeError(f"{path} does not exist; expected a file of masks.")
    name = path.name.lower()
    if name.endswith(NIFTI):
        return masks_on_grid(*read_nifti(path), like, str(path))
    if name.endswith(NRRD):
        return masks_on_grid(*read_seg_nrrd(path), like, str(path))
    if name.endswith(".stl"):
        raise VolumeError(f"{path}: surfaces are written, not read; expected {_ENDINGS.replace(' or .stl', '')}.")
    return _load_dicom_object(path, like, other_frame)


def _load_folder(folder: Path, like: Volume, other_frame: bool) -> dict[str, np.ndarray]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    objects = [path for path in paths if not path.name.lower().endswith(NIFTI) and _mask_class(path)]
    if len(objects) > 1:
        raise DicomError(
            f"{folder} holds {len(objects)} segmentations; give one of them: {', '.join(map(str, objects[:10]))}."
        )
    if objects:
        return _load_dicom_object(objects[0], like, other_frame)
    masks: dict[str, np.ndarray] = {}
    for path in (path for path in paths if path.name.lower().endswith(NIFTI) and path.parent == folder):
        for name, mask in masks_on_grid(*read_nifti(path), like, str(path)).items():
            if name in masks:
                raise VolumeError(f"{path}: {name!r} is in another file of {folder}, too; expected one file for each.")
            masks[name] = mask
    if not masks:
        raise VolumeError(f"{folder}: no DICOM SEG, RTSTRUCT or NIfTI mask with a voxel among its {len(paths)} files.")
    return masks


def _mask_class(path: Path) -> str:
    """SOP class of a DICOM file if it holds masks, else ""."""
    from seganypet.pet.dicom_seg import SEG_CLASSES

    header = read_header(path, ["SOPClassUID"])
    found = str(header.get("SOPClassUID", "")) if header is not None else ""
    return found if found in (*SEG_CLASSES, RTStructureSetStorage) else ""


def _load_dicom_object(path: Path, like: Volume, other_frame: bool) -> dict[str, np.ndarray]:
    from seganypet.pet.dicom_seg import SEG_CLASSES, read_seg
    from seganypet.pet.rtstruct import frames_of_reference, read_rtstruct

    source = str(path)
    try:
        with reading(path, DicomError), path.open("rb") as stream:
            header = read_dataset(stream)
        sop_class = str(header.get("SOPClassUID", ""))
        if sop_class == RTStructureSetStorage:
            check_frame_of_reference(frames_of_reference(header), like, source, other_frame)
            masks = read_rtstruct(header, like, source)
        elif sop_class in SEG_CLASSES:
            check_frame_of_reference([header.get("FrameOfReferenceUID")], like, source, other_frame)
            masks = masks_on_grid(*read_seg(header, like, source), like, source)
        else:
            kind = pydicom.uid.UID(sop_class).name or "no SOP class"
            raise DicomError(f"{path}: a DICOM object of class {kind}; expected a Segmentation or an RT Structure Set.")
    except SegAnyPETError:
        raise
    except InvalidDicomError as error:
        raise VolumeError(f"{path}: neither a DICOM object nor a file ending in {_ENDINGS}.") from error
    except UNREADABLE as error:
        raise DicomError(
            f"{path}: not a readable DICOM object, or cut short ({reason_of(error)}). Copy it again."
        ) from error
    if not masks:
        raise DicomError(f"{path}: no object with a voxel or a closed contour.")
    return masks


def save_masks(
    path: str | os.PathLike,
    masks: Mapping[str, np.ndarray],
    like: Volume,
    reference: str | os.PathLike | None = None,
    kind: Kind | None = None,
) -> list[Path]:
    """Write objects as the name's ending says: `.nii`, `.nii.gz`, `.seg.nrrd`, `.dcm`, `.stl`; or into a folder.

    DICOM objects lie on the slices of the series that the volume came from. For a volume from another file, name the
    folder of its series: no series is made up. In an existing folder, each object gets a `.nii.gz`; each STL file holds
    one object, and several are called NAME_OBJECT.stl. Files are written whole or not at all.

    Args:
        path: Path of the file, or an existing folder.
        masks: Name to mask, bool (or 0 and 1), shape of `like`. Those without a voxel are left out, with a warning.
        like: Volume with the grid of the masks.
        reference: Folder of the DICOM series of `like`, for `.dcm`; default: the folder it was loaded from.
        kind: "seg" or "rtstruct", for `.dcm`; default: RTSTRUCT if the file's name begins so, else SEG.

    Returns:
        Paths of the files written.

    Raises:
        VolumeError: The ending is another; a mask or a name cannot be; no object has a voxel (an empty label map can be
            written as NIfTI); there are more objects than the file can hold (255 in NIfTI).
        GeometryError: The shape of a mask differs from that of `like`; or they are not on the grid of the series.
        DicomError: There is no DICOM series to refer to.
        SegAnyPETError: The file cannot be written.

    Warns:
        UserWarning: Objects overlap in a label map: how many voxels went to which; or an object is empty.
    """
    path = as_path(path)
    name = path.name.lower()
    is_label_map = name.endswith(NIFTI)
    checked = _checked(masks, like, path, may_be_empty=is_label_map)
    if os.path.isdir(path):
        return _write_each(path, {f"{one}.nii.gz": one for one in checked}, checked, like)
    if kind is not None and kind not in ("seg", "rtstruct"):
        raise VolumeError(f"kind={kind!r}; expected 'seg' or 'rtstruct'.")
    if kind is not None and not name.endswith(".dcm"):
        raise VolumeError(f"{path}: kind={kind!r} is for DICOM; expected a file ending in .dcm.")
    check_writable(path)
    if is_label_map:
        write_nifti(path, checked, like)
    elif name.endswith(".seg.nrrd"):
        with replace_atomically(path) as temporary:
            write_seg_nrrd(temporary, checked, like)
    elif name.endswith(".dcm"):
        kind = kind or ("rtstruct" if name.startswith("rtstruct") else "seg")
        _write_dicom(path, checked, like, reference_series(like, reference), kind)
    elif name.endswith(".stl"):
        stem = path.name[: -len(".stl")]
        files = {path.name if len(checked) == 1 else f"{stem}_{one}.stl": one for one in checked}
        return _write_each(path.parent, files, checked, like)
    else:
        raise VolumeError(f"{path}: expected a file ending in {_ENDINGS}, or an existing folder.")
    return [path]


def _checked(masks: Mapping[str, np.ndarray], like: Volume, path: Path, may_be_empty: bool) -> dict[str, np.ndarray]:
    """The masks as bool, with trimmed names, without empty ones."""
    if not isinstance(masks, Mapping):
        raise VolumeError(f"{path}: masks of type {type(masks).__name__}; expected {{name: mask}}.")
    checked: dict[str, np.ndarray] = {}
    empty = []
    for given, mask in masks.items():
        if not (name := readable_name(given)):
            raise VolumeError(f"{path}: object name {given!r}; expected printable text.")
        if name in checked or name in empty:
            raise VolumeError(f"{path}: two objects are named {name!r}; give each its own name.")
        mask = np.asarray(mask)
        if mask.shape != like.shape:
            raise GeometryError(
                f"{path}: mask {name!r} of shape {mask.shape} does not fit {like.source} of shape {like.shape}."
            )
        if mask.dtype != bool:
            if mask.dtype.kind not in "ui" or mask.min() < 0 or mask.max() > 1:
                raise VolumeError(
                    f"{path}: mask {name!r} is of {mask.dtype}; expected bool, or 0 and 1. Of a label map, give each "
                    "object by itself: labels == 1. Threshold logits first: logits > 0."
                )
            mask = mask.astype(bool)
        if mask.any():
            checked[name] = mask
        else:
            empty.append(name)
    if not checked and not (may_be_empty and empty):
        what = f"{', '.join(empty)} without a voxel" if empty else "no object"
        raise VolumeError(f"{path}: {what}; expected at least one object with a voxel.")
    if empty:
        warn_caller(f"{path}: {', '.join(empty)} without a voxel, left out.")
    return checked


def _write_each(folder: Path, files: Mapping[str, str], masks: Mapping[str, np.ndarray], like: Volume) -> list[Path]:
    """Write each object to a file of its own; all are complete before the first one takes its place."""
    from seganypet.pet.surfaces import write_stl

    unsafe = unsafe_name(files)
    if unsafe is not None:
        raise VolumeError(f"{folder / unsafe[0]}: not a name for a file: {unsafe[1]}. Rename the object.")
    with ExitStack() as stack:
        for file, name in files.items():
            temporary = stack.enter_context(replace_atomically(folder / file))
            if file.endswith(".nii.gz"):
                write_nifti(temporary, {name: masks[name]}, like)
            else:
                write_stl(temporary, masks[name], like, name)
    return [folder / file for file in files]


def _write_dicom(path: Path, masks: dict[str, np.ndarray], like: Volume, series: ReferenceSeries, kind: Kind) -> None:
    from seganypet import __version__
    from seganypet.pet.dicom_seg import seg_object
    from seganypet.pet.rtstruct import rtstruct_object

    for name in masks:
        if len(name) > _DICOM_NAME or "\\" in name:
            raise VolumeError(
                f"{path}: object name {name!r}; DICOM allows {_DICOM_NAME} characters without a backslash. Rename it."
            )
    layers = (Layer(mask, {1: name}) for name, mask in masks.items())
    on_series = masks_on_grid(layers, like.affine, series.grid, like.source)
    on_series = {name: mask for name, mask in on_series.items() if mask.any()}
    content: Dataset
    try:
        content = (seg_object if kind == "seg" else rtstruct_object)(on_series, series, __version__)
    except UNREADABLE as error:
        raise DicomError(
            f"{series.source}: no DICOM object can be derived from the headers of this series ({reason_of(error)}). "
            "Copy it again; or save as .seg.nrrd or .nii.gz."
        ) from error
    with replace_atomically(path) as temporary:
        content.save_as(temporary, enforce_file_format=True)
