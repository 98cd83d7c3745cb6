"""TotalSegmentator's organs (Wasserthal et al., Radiology AI 5 (2023) e230024), on the grid of a PET.

Its output is read from disk, as one file for all classes or one file per organ; or the package runs here, where it is
installed. Both give the labels of this package: 1 to 12 in the order of `ORGANS`, which has the same names.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from seganypet.errors import GeometryError, SegAnyPETError, UnitError, VolumeError
from seganypet.organs import ORGANS
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Grid, Volume, check_labels, check_on_grid, open_nifti, read_voxels
from seganypet.regions import Box, bounding_box, widen_box

# Task "total" of version 2: class_map in totalsegmentator/map_to_binary.py of release 2.18.0. Version 1 numbers
# differently (aorta 7, left lower lobe 14, no heart as one class, no prostate), as does "total_mr".
TOTAL_V2 = {
    "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "lung_upper_lobe_left": 10,
    "lung_lower_lobe_left": 11, "lung_upper_lobe_right": 12, "lung_middle_lobe_right": 13, "lung_lower_lobe_right": 14,
    "urinary_bladder": 21, "prostate": 22, "heart": 51, "aorta": 52, "brain": 90,
}  # fmt: skip
MAX_CLASSES = 117
INSTALL = "pip install 'seganypet[totalsegmentator]'"


class Organ(NamedTuple):
    """One organ of TotalSegmentator: its mask (bool) and the grid of the mask."""

    name: str
    mask: np.ndarray
    grid: Grid


def read_totalsegmentator(
    path: str | os.PathLike, like: Volume, organs: Sequence[str] = ORGANS
) -> tuple[np.ndarray, dict[int, str]]:
    """Read TotalSegmentator's output for a CT.

    On another grid, each voxel gets the organ, or background, that fills most of it. The fractions come from
    `resample_to`; nearest-neighbour interpolation would look at one point of the voxel only.

    Args:
        path: NIfTI file with all classes (`--ml`), or folder with one file per organ, such as `liver.nii.gz`. A file
            with label names in its header, as versions from 1.5.2 write, is read by these names; one without is
            assumed to be task "total" of version 2, with a warning.
        like: Scan with the target grid, such as the PET. If the CT was registered to it in the meantime, give
            `apply_transform(pet, numpy.linalg.inv(transform))`: the labels are then those of the PET's voxels.
        organs: Organs to read, by TotalSegmentator's names; without names in the header, only those of `TOTAL_V2`.

    Returns:
        Labels 1, 2, ... in the order of `organs`, shape of `like`, int16; and the name of each label in the output, for
        `organ_targets`. An organ with a name but no voxel was searched and not found.

    Raises:
        VolumeError: The file is missing, damaged, or not TotalSegmentator's.
        GeometryError: The organs do not overlap with `like`.

    Warns:
        UserWarning: The labels have no names, or organs are missing from the output.
    """
    path = Path(path)
    if path.is_dir():
        names, found = _from_folder(path, organs)
    else:
        names, found = _from_label_map(open_nifti(path), str(path), organs)
    return _on_grid(found, organs, like, str(path)), _names_by_label(names, organs, str(path))


def run_totalsegmentator(
    ct: Volume,
    *,
    fast: bool = True,
    device: str = "cpu",
    folder: str | os.PathLike | None = None,
    like: Volume | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Run TotalSegmentator (task "total") on a CT, where the package is installed.

    It downloads its weights on first use, and sends anonymous usage statistics to its authors unless its configuration
    says otherwise; voxels are not sent.

    Args:
        ct: CT, in HU.
        fast: Whether to use the 3 mm model instead of five models of 1.5 mm, which take minutes on a GPU and far
            longer without.
        device: "cpu", "gpu", "gpu:1", ... or "mps".
        folder: Folder for its label map, totalsegmentator.nii.gz, which `read_totalsegmentator` can read again.
        like: Scan with the target grid; default: `ct`.

    Returns:
        As `read_totalsegmentator`.

    Raises:
        UnitError: `ct` is not in HU.
        SegAnyPETError: The package is not installed, its weights cannot be fetched, or it fails.
        GeometryError: `like` does not overlap with the organs.
    """
    if ct.unit != "HU":
        raise UnitError(f"{ct.source} is in {ct.unit}; expected a CT in HU for TotalSegmentator.")
    instead = "or run it elsewhere and give its output to read_totalsegmentator(path, like=pet)."
    try:
        from totalsegmentator.python_api import totalsegmentator
    except ImportError as error:
        raise SegAnyPETError(
            f"TotalSegmentator cannot be imported ({error}). Install it, {INSTALL}, {instead}"
        ) from error
    output = None
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        output = Path(folder) / "totalsegmentator.nii.gz"
    image = nib.Nifti1Image(ct.data, ct.affine)
    image.header.set_xyzt_units("mm")
    try:
        found = totalsegmentator(image, output, ml=True, fast=fast, device=device, task="total", quiet=True)
    except (Exception, SystemExit) as error:  # it exits where a weights file is refused
        raise SegAnyPETError(
            f"{ct.source}: TotalSegmentator failed ({type(error).__name__}: {error}). Its first run downloads "
            f"weights, and every run needs memory for the CT. Check that it runs alone: TotalSegmentator -i ct.nii.gz "
            f"-o organs.nii.gz --ml; {instead}"
        ) from error
    if not isinstance(found, nib.Nifti1Image):
        raise SegAnyPETError(
            f"{ct.source}: TotalSegmentator returned a {type(found).__name__} instead of a label map. Is it a "
            f"supported version? {INSTALL}, {instead}"
        )
    source = f"TotalSegmentator on {ct.source}"
    names, organs = _from_label_map(found, source, ORGANS)
    return _on_grid(organs, ORGANS, ct if like is None else like, source), _names_by_label(names, ORGANS, source)


def _from_folder(folder: Path, organs: Sequence[str]) -> tuple[list[str], Iterator[Organ]]:
    """Names of the organs that have a file, and these organs, read one at a time."""
    files = {organ: folder / f"{organ}{suffix}" for suffix in (".nii", ".nii.gz") for organ in organs
             if (folder / f"{organ}{suffix}").is_file()}  # fmt: skip
    if not files:
        there = sorted(path.name for path in folder.iterdir())
        raise VolumeError(
            f"{folder}: no {organs[0]}.nii.gz nor a file of any other organ, only {', '.join(there[:5]) or 'nothing'}. "
            "Give TotalSegmentator's output folder, or its single file of all classes."
        )

    def read() -> Iterator[Organ]:
        for organ, path in files.items():
            image = open_nifti(path)
            labels = check_labels(read_voxels(image, path), str(path))
            if labels.max() > 1:
                raise VolumeError(f"{path}: labels up to {labels.max()}; expected 0 and 1 in the mask of one organ.")
            yield Organ(organ, labels > 0, Grid.of(image, path))

    return list(files), read()


def _from_label_map(
    image: nib.Nifti1Pair, source: str, organs: Sequence[str]
) -> tuple[list[str], Iterator[Organ]]:
    """Names of the organs in a label map, and these organs."""
    labels, grid = check_labels(read_voxels(image, source), source), Grid.of(image, source)
    ids = _header_names(image)
    if not ids:
        ids = TOTAL_V2
        largest = int(labels.max())
        if largest <= 1 or largest > MAX_CLASSES:
            raise VolumeError(
                f"{source}: labels up to {largest} and no names in the header; TotalSegmentator's map of all "
                f"classes has up to {MAX_CLASSES}. For masks of single organs, give their folder."
            )
        warnings.warn(
            f"{source} does not name its labels; they are assumed to be those of TotalSegmentator 2, task total.",
            stacklevel=3,
        )
    names = [organ for organ in organs if organ in ids]
    if not names:
        raise VolumeError(
            f"{source} names its labels {', '.join(list(ids)[:5])}, ...: none of {', '.join(organs)}. Is it the "
            "output of task total?"
        )
    return names, (Organ(name, labels == ids[name], grid) for name in names)


def _header_names(image: nib.Nifti1Pair) -> dict[str, int]:
    """Label of each name, from the table that TotalSegmentator writes into a NIfTI extension; empty without one."""
    for extension in image.header.extensions:
        content = extension.get_content()
        text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
        try:
            table = ElementTree.fromstring(text.strip("\0 \n")).iter("Label")
            names = {(label.text or "").strip(): int(label.get("Key", "")) for label in table}
        except (ElementTree.ParseError, ValueError):
            continue  # an extension of another program
        if names:
            return names
    return {}


def _names_by_label(names: list[str], organs: Sequence[str], source: str) -> dict[int, str]:
    """The name of each label in the output; a warning names the organs that are missing."""
    absent = [organ for organ in organs if organ not in names]
    if absent:
        warnings.warn(f"{source} has no label for {', '.join(absent)}.", stacklevel=3)
    return {label: organ for label, organ in enumerate(organs, 1) if organ in names}


def _on_grid(found: Iterator[Organ], organs: Sequence[str], like: Volume, source: str) -> np.ndarray:
    """Labels 1, 2, ... on the grid of `like`, int16: the organ, or background, that fills most of a voxel."""
    labels = np.zeros(like.shape, np.int16)
    largest = np.zeros(like.shape, np.float32)  # fraction of a voxel that its largest organ fills
    total = np.zeros(like.shape, np.float32)  # fraction that all organs fill
    drawn = False
    for organ in found:
        box = bounding_box(organ.mask)
        if box is None:
            continue
        drawn = True
        target, fraction = _fraction(organ, box, like)
        wins = fraction > largest[target]
        labels[target][wins] = list(organs).index(organ.name) + 1
        np.maximum(largest[target], fraction, out=largest[target])
        total[target] += fraction
    labels[largest <= 1 - total] = 0
    if drawn and not total.any():
        raise GeometryError(
            f"{source}: no organ lies within {like.source}. Is it from the same patient and scan, in one frame?"
        )
    return labels


def _fraction(organ: Organ, box: Box, like: Volume) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box of `like` that contains an organ, and the fraction of each of its voxels that the organ fills."""
    try:
        check_on_grid(organ.grid, like)
    except GeometryError:
        pass
    else:
        return box, organ.mask[box].astype(np.float32)
    # Only the organ's surroundings are resampled: a CT may have a hundred times as many voxels.
    to_like = np.linalg.inv(like.affine) @ organ.grid.affine
    reach = np.linalg.norm(np.linalg.inv(to_like[:3, :3]), axis=1)  # extent of a voxel of `like` in voxels of the mask
    near = widen_box(box, np.ceil(2 * reach) + 1, organ.grid.shape)
    corners = list(product(*((part.start - 0.5, part.stop - 0.5) for part in near)))
    corners = nib.affines.apply_affine(to_like, corners)
    first = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, like.shape)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, first, like.shape)
    target = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    if (first == last).any():
        return target, np.zeros(last - first, np.float32)
    # With a unit of activity, resample_to fills the outside with 0.
    mask = Volume(organ.mask[near], _shifted(organ.grid.affine, [part.start for part in near]), "SUVbw")
    there = Volume(np.broadcast_to(np.float32(0), last - first), _shifted(like.affine, first), "SUVbw")
    return target, resample_to(mask, there).data


def _shifted(affine: np.ndarray, corner: Sequence[int] | np.ndarray) -> np.ndarray:
    """Affine of the part of a grid that begins at voxel `corner`."""
    affine = affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, corner)
    return affine
