"""TotalSegmentator's organs (Wasserthal et al., Radiology AI 5 (2023) e230024), on the grid of a PET.

Its output may lie on disk already, as one file for all classes or one file per organ; or the package runs here, where
it is installed. Both give the labels of this package: 1 to 12 in the order of `ORGANS`, whose names are its own.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from seganypet.regions import bounding_box

# Task "total" of version 2: class_map in totalsegmentator/map_to_binary.py of release 2.18.0.
# Version 1 numbers otherwise (aorta 7, left lower lobe 14, no heart as one class, no prostate), as does "total_mr".
TOTAL_V2 = {
    "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "lung_upper_lobe_left": 10,
    "lung_lower_lobe_left": 11, "lung_upper_lobe_right": 12, "lung_middle_lobe_right": 13, "lung_lower_lobe_right": 14,
    "urinary_bladder": 21, "prostate": 22, "heart": 51, "aorta": 52, "brain": 90,
}  # fmt: skip
MAX_CLASSES = 117
INSTALL = "pip install 'seganypet[totalsegmentator]'"


class Organ(NamedTuple):
    """One organ as TotalSegmentator drew it: its mask (bool), and where that lies."""

    name: str
    mask: np.ndarray
    grid: Grid


def read_totalsegmentator(
    path: str | os.PathLike, like: Volume, organs: Sequence[str] = ORGANS
) -> tuple[np.ndarray, dict[int, str]]:
    """Read what TotalSegmentator wrote for a CT.

    Args:
        path: Its output: a NIfTI file with all classes (`--ml`), or the folder with one file per organ, such as
            `liver.nii.gz`. A file that names its labels in the header, as versions from 1.5.2 write, is read by these
            names; one without is taken to be task "total" of version 2, and a warning says so.
        like: The scan whose grid the labels shall have, such as the PET. If the CT was registered to it since, give
            `apply_transform(pet, numpy.linalg.inv(transform))`: the labels are then those of the PET's voxels.
        organs: Which to read, by TotalSegmentator's names; without names in the header those of `TOTAL_V2` only.

    Returns:
        Labels 1, 2, ... in the order of `organs`, shape of `like`, int16; and the name of each label that the output
        speaks of, for `organ_targets`. An organ with a name and no voxel was looked for and not found.

    Raises:
        VolumeError: Nothing there, a damaged file, or one that is not TotalSegmentator's.
        GeometryError: The organs lie elsewhere than `like`.

    Warns:
        UserWarning: Labels without names, or organs that the output does not speak of; they are absent.

    On another grid each voxel goes to the organ, or to what is none, that fills most of it: shares come from
    `resample_to`, which nearest-neighbour interpolation would reduce to one point of the voxel.
    """
    path = Path(path)
    if path.is_dir():
        names, found = _from_folder(path, organs)
    else:
        image = open_nifti(path)
        labels = check_labels(read_voxels(image, path), str(path))
        names, found = _from_labels(labels, _header_names(image), Grid(image.shape, image.affine, str(path)), organs)
    return _on_grid(found, organs, like, str(path)), _told(names, organs, str(path))


def run_totalsegmentator(
    ct: Volume,
    *,
    fast: bool = True,
    device: str = "cpu",
    folder: str | os.PathLike | None = None,
    like: Volume | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Run TotalSegmentator (task "total") on a CT, where the package is installed.

    It downloads its weights when first used, and sends anonymous statistics of use to its authors unless its
    configuration says otherwise; voxels stay here.

    Args:
        ct: The CT, in HU.
        fast: The 3 mm model instead of five models of 1.5 mm, which take minutes on a GPU and far longer without.
        device: "cpu", "gpu", "gpu:1", ... or "mps".
        folder: Where to keep its label map, as totalsegmentator.nii.gz, to be read again by `read_totalsegmentator`.
        like: The scan whose grid the labels shall have; default `ct`.

    Returns:
        As `read_totalsegmentator`.

    Raises:
        UnitError: `ct` is not in HU.
        SegAnyPETError: The package is not installed, its weights cannot be fetched, or it fails.
        GeometryError: `like` lies elsewhere.
    """
    if ct.unit != "HU":
        raise UnitError(f"{ct.source}: TotalSegmentator reads CT in HU; the volume's unit is {ct.unit}.")
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
    except (Exception, SystemExit) as error:  # it ends the interpreter where a weights file is refused
        raise SegAnyPETError(
            f"{ct.source}: TotalSegmentator failed ({type(error).__name__}: {error}). Its first run needs the internet "
            f"for its weights, later ones memory for the CT; see that it runs alone: TotalSegmentator -i ct.nii.gz -o "
            f"organs.nii.gz --ml; {instead}"
        ) from error
    if not isinstance(found, nib.Nifti1Image):
        raise SegAnyPETError(
            f"{ct.source}: TotalSegmentator returned a {type(found).__name__} instead of a label map. Does its version "
            f"fit? {INSTALL}, {instead}"
        )
    source = f"TotalSegmentator on {ct.source}"
    labels = check_labels(read_voxels(found, source), source)
    names, organs = _from_labels(labels, _header_names(found), Grid(found.shape, found.affine, source), ORGANS)
    return _on_grid(organs, ORGANS, ct if like is None else like, source), _told(names, ORGANS, source)


def _from_folder(folder: Path, organs: Sequence[str]) -> tuple[list[str], Iterator[Organ]]:
    """Organs that have a file, and these organs, read one at a time."""
    files = {organ: folder / f"{organ}{suffix}" for suffix in (".nii", ".nii.gz") for organ in organs
             if (folder / f"{organ}{suffix}").is_file()}  # fmt: skip
    if not files:
        there = sorted(path.name for path in folder.iterdir())
        raise VolumeError(
            f"{folder}: no {organs[0]}.nii.gz nor a file of any other organ, only {', '.join(there[:5]) or 'nothing'}. "
            "Give TotalSegmentator's output folder, or its one file of all classes."
        )

    def read() -> Iterator[Organ]:
        for organ, path in files.items():
            image = open_nifti(path)
            labels = check_labels(read_voxels(image, path), str(path))
            if labels.max() > 1:
                raise VolumeError(f"{path}: labels up to {labels.max()}; the mask of one organ holds 0 and 1.")
            yield Organ(organ, labels > 0, Grid(image.shape, image.affine, str(path)))

    return list(files), read()


def _from_labels(
    labels: np.ndarray, header_names: Mapping[str, int], grid: Grid, organs: Sequence[str]
) -> tuple[list[str], Iterator[Organ]]:
    """Organs that a label map speaks of, and these organs."""
    ids = header_names
    if not ids:
        ids = TOTAL_V2
        largest = int(labels.max())
        if largest <= 1 or largest > MAX_CLASSES:
            raise VolumeError(
                f"{grid.source}: labels up to {largest} and no names in the header; TotalSegmentator's map of all "
                f"classes has up to {MAX_CLASSES}. Of masks of single organs give the folder that holds them."
            )
        warnings.warn(
            f"{grid.source} does not name its labels; they are taken to be those of TotalSegmentator 2, task total.",
            stacklevel=3,
        )
    names = [organ for organ in organs if organ in ids]
    if not names:
        raise VolumeError(
            f"{grid.source} names its labels {', '.join(list(ids)[:5])}, ...: none of {', '.join(organs)}. Is it the "
            "output of task total?"
        )
    return names, (Organ(name, labels == ids[name], grid) for name in names)


def _header_names(image: nib.Nifti1Pair) -> dict[str, int]:
    """Name to label, from the table that TotalSegmentator puts into a NIfTI extension; empty without one."""
    for extension in image.header.extensions:
        content = extension.get_content()
        text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
        try:
            table = ElementTree.fromstring(text.strip("\0 \n")).iter("Label")
            names = {(label.text or "").strip(): int(label.get("Key", "")) for label in table}
        except (ElementTree.ParseError, ValueError):
            continue  # somebody else's extension
        if names:
            return names
    return {}


def _told(names: list[str], organs: Sequence[str], source: str) -> dict[int, str]:
    """The organs at hand by label; a warning names the others."""
    absent = [organ for organ in organs if organ not in names]
    if absent:
        warnings.warn(f"{source} does not speak of {', '.join(absent)}.", stacklevel=3)
    return {label: organ for label, organ in enumerate(organs, 1) if organ in names}


def _on_grid(found: Iterator[Organ], organs: Sequence[str], like: Volume, source: str) -> np.ndarray:
    """Labels 1, 2, ... on the grid of `like`, int16: the organ, or none, that fills most of a voxel."""
    labels = np.zeros(like.shape, np.int16)
    largest = np.zeros(like.shape, np.float32)  # share of the organ that fills most, and of all organs
    total = np.zeros(like.shape, np.float32)
    drawn = False
    for organ in found:
        box = bounding_box(organ.mask)
        if box is None:
            continue
        drawn = True
        target, share = _share(organ, box, like)
        wins = share > largest[target]
        labels[target][wins] = list(organs).index(organ.name) + 1
        np.maximum(largest[target], share, out=largest[target])
        total[target] += share
    labels[largest <= 1 - total] = 0
    if drawn and not total.any():
        raise GeometryError(
            f"{source}: no organ lies within {like.source}. Is it of the same patient and scan, in one frame?"
        )
    return labels


def _share(organ: Organ, box: tuple[slice, ...], like: Volume) -> tuple[tuple[slice, ...], np.ndarray]:
    """Where in `like` an organ lies (a box), and how much of each voxel there it fills, 0 to 1."""
    try:
        check_on_grid(organ.grid, like)
    except GeometryError:
        pass
    else:
        return box, organ.mask[box].astype(np.float32)
    # Only the organ's surroundings are resampled: a CT may hold a hundred times as many voxels.
    to_like = np.linalg.inv(like.affine) @ organ.grid.affine
    reach = np.linalg.norm(np.linalg.inv(to_like[:3, :3]), axis=1)  # extent of a voxel of `like` in voxels of the mask
    low = np.maximum([part.start for part in box] - np.ceil(2 * reach).astype(int) - 1, 0)
    high = np.minimum([part.stop for part in box] + np.ceil(2 * reach).astype(int) + 1, organ.grid.shape)
    corners = nib.affines.apply_affine(to_like, list(product(*zip(low - 0.5, high - 0.5, strict=True))))
    first = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, like.shape)
    last = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, first, like.shape)
    target = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    if (first == last).any():
        return target, np.zeros(last - first, np.float32)
    near = organ.mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    # The unit of activity, so that what lies outside counts as 0.
    mask = Volume(near, _shifted(organ.grid.affine, low), "SUVbw")
    there = Volume(np.broadcast_to(np.float32(0), last - first), _shifted(like.affine, first), "SUVbw")
    return target, resample_to(mask, there).data


def _shifted(affine: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Affine of the part of a grid that begins at voxel `corner`."""
    affine = affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(affine, corner)
    return affine
