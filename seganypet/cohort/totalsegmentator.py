"""TotalSegmentator's organs (Wasserthal et al., Radiology AI 5 (2023) e230024), on the grid of a PET.

Its output is read from disk, as one file for all classes or one file per organ; or the package runs here, where it is
installed. Both give the labels of this package: 1 to 12 in the order of `ORGANS`, which has the same names.
"""

import os
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import nibabel as nib
import numpy as np

from seganypet._files import as_path, make_folder, reading
from seganypet.errors import GeometryError, SegAnyPETError, UnitError, VolumeError
from seganypet.organs import ORGANS
from seganypet.pet.grids import Grid, check_on_grid
from seganypet.pet.image_file import check_labels
from seganypet.pet.label_files import names_in_header
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume, open_image
from seganypet.regions import Box, bounding_box, label_sizes, widen_box

# Task "total" of both versions: class_map in totalsegmentator/map_to_binary.py of release 2.18.0, "total_v1" and
# "total". Version 1 has no prostate, and the heart in five parts; "total_mr" numbers differently again.
TOTAL_V1 = {
    "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "aorta": 7, "lung_upper_lobe_left": 13,
    "lung_lower_lobe_left": 14, "lung_upper_lobe_right": 15, "lung_middle_lobe_right": 16, "lung_lower_lobe_right": 17,
    "heart_myocardium": 44, "heart_atrium_left": 45, "heart_ventricle_left": 46, "heart_atrium_right": 47,
    "heart_ventricle_right": 48, "brain": 50, "urinary_bladder": 104,
}  # fmt: skip
TOTAL_V2 = {
    "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "lung_upper_lobe_left": 10,
    "lung_lower_lobe_left": 11, "lung_upper_lobe_right": 12, "lung_middle_lobe_right": 13, "lung_lower_lobe_right": 14,
    "urinary_bladder": 21, "prostate": 22, "heart": 51, "aorta": 52, "brain": 90,
}  # fmt: skip
CLASSES = {1: 104, 2: 117}
PARTS_OF = {
    "heart": ("heart_myocardium", "heart_atrium_left", "heart_ventricle_left", "heart_atrium_right",
              "heart_ventricle_right")
}  # fmt: skip
# Numbers (first, last) of structures that are small in everybody, and a volume that they never reach, in mL. What is
# larger shows that a map follows the other version: a lobe of the lung is no adrenal gland, a colon no artery.
_SMALL = {
    1: (("portal vein", 9, 9, 150), ("pancreas", 10, 10, 300), ("adrenal gland", 11, 12, 60), ("vertebra", 18, 41, 150),
        ("esophagus", 42, 42, 150), ("iliac vessel", 51, 54, 120), ("rib", 58, 81, 120)),
    2: (("pancreas", 7, 7, 300), ("adrenal gland", 8, 9, 60), ("esophagus", 15, 15, 150), ("trachea", 16, 16, 200),
        ("thyroid gland", 17, 17, 200), ("vertebra", 26, 50, 150), ("neck vessel", 53, 60, 120),
        ("iliac vessel", 65, 68, 120), ("rib", 92, 115, 120)),
}  # fmt: skip
# A run for all classes finds most of those in view; what it has a name for and no voxel of was searched for in vain.
_ALL_CLASSES, _FOUND_IN_FULL_RUN = 50, 1 / 3
INSTALL = "pip install 'seganypet[totalsegmentator]'"


class Organ(NamedTuple):
    """One organ of TotalSegmentator: its mask (bool) and the grid of the mask."""

    name: str
    mask: np.ndarray
    grid: Grid


def read_totalsegmentator(
    path: str | os.PathLike, like: Volume, organs: Sequence[str] = ORGANS, *, version: Literal[1, 2] | None = None
) -> tuple[np.ndarray, dict[int, str]]:
    """Read TotalSegmentator's output for a CT.

    On another grid, each voxel gets the organ, or background, that fills most of it. The fractions come from
    `resample_to`; nearest-neighbour interpolation would look at one point of the voxel only.

    Args:
        path: NIfTI file with all classes (`--ml`), or folder with one file per organ, such as `liver.nii.gz`. A file
            with label names in its header, as versions from 1.5.2 write, is read by these names. In one without, the
            version is judged by the sizes of structures that are small in everybody, and a warning says by which.
        like: Scan with the target grid, such as the PET. If the CT was registered to it in the meantime, give
            `apply_transform(pet, numpy.linalg.inv(transform))`: the labels are then those of the PET's voxels.
        organs: Organs to read, by TotalSegmentator's names; without names in the header, only those of `TOTAL_V1` and
            `TOTAL_V2`. A heart in five parts, as in version 1, is put together.
        version: Version of a label map without names; default: judged. Where that is impossible, only organs with the
            same number in both versions are read.

    Returns:
        Labels 1, 2, ... in the order of `organs`, shape of `like`, int16; and the name of each label in the output, for
        `organ_targets`. An organ with a name but no voxel was searched for and not found: it has an empty file, or the
        label map is one of all classes and holds most of them. A map of a subset may name what nobody searched for
        (before release 2.0.6), so organs without voxels in it have no name here.

    Raises:
        VolumeError: The file is missing, damaged, or not TotalSegmentator's.
        GeometryError: The organs do not overlap with `like`.

    Warns:
        UserWarning: The labels have no names, organs are missing from the output, or nobody can tell whether they were
            searched for.
    """
    path = as_path(path)
    if version not in (None, *CLASSES):
        raise VolumeError(f"version={version!r}; expected 1 or 2.")
    with reading(path, VolumeError):
        if path.is_dir():
            names, found = _from_folder(path, organs)
        else:
            image = open_image(path)
            image.check_geometry()
            grid = Grid(image.shape, image.affine, str(path))
            names, found = _from_label_map(image.labels(), grid, _numbers_in_header(image.header), organs, version)
    return _on_grid(found, organs, like, str(path)), _names_by_label(names, organs)


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
        make_folder(folder)
        output = as_path(folder) / "totalsegmentator.nii.gz"
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
    labels = check_labels(np.asanyarray(found.dataobj), source)
    grid = Grid(labels.shape, found.affine, source)
    ids = _numbers_in_header(found.header)
    names, organs = _from_label_map(labels, grid, ids, ORGANS, version=2, all_searched=True)
    return _on_grid(organs, ORGANS, ct if like is None else like, source), _names_by_label(names, ORGANS)


def were_all_searched(named: int, present: int) -> bool:
    """Whether a map with so many named classes, and so many that have voxels, is of a run for all classes."""
    return named >= _ALL_CLASSES and present >= _FOUND_IN_FULL_RUN * named


def _from_folder(folder: Path, organs: Sequence[str]) -> tuple[list[str], Iterator[Organ]]:
    """Names of the organs that have a file, and these organs, read one at a time."""
    there = {path.name.removesuffix(suffix): path for suffix in (".nii", ".nii.gz")
             for path in sorted(folder.iterdir()) if path.name.endswith(suffix)}  # fmt: skip
    files = {organ: [there[part] for part in _parts(organ, there)] for organ in organs if _parts(organ, there)}
    if not files:
        listed = sorted(path.name for path in folder.iterdir())
        raise VolumeError(
            f"{folder}: no {organs[0]}.nii.gz nor a file of any other organ, only {', '.join(listed[:5]) or 'nothing'}."
            " Give TotalSegmentator's output folder, or its single file of all classes."
        )
    _tell_missing(files, organs, str(folder))

    def read() -> Iterator[Organ]:
        for organ, paths in files.items():
            mask = grid = None
            for path in paths:
                image = open_image(path)
                image.check_geometry()
                labels = image.labels()
                if labels.max() > 1:
                    raise VolumeError(
                        f"{path}: labels up to {labels.max()}; expected 0 and 1 in the mask of one organ."
                    )
                if grid is None:
                    grid, mask = Grid(image.shape, image.affine, str(path)), labels > 0
                else:
                    check_on_grid(image, grid)
                    mask |= labels > 0
            yield Organ(organ, mask, grid)

    return list(files), read()


def _parts(organ: str, there: Container[str]) -> tuple[str, ...]:
    """The names under which an organ is there: its own, or all of its parts; none if it is not."""
    parts = (organ,) if organ in there else PARTS_OF.get(organ, ())
    return parts if all(part in there for part in parts) else ()


def _from_label_map(
    labels: np.ndarray,
    grid: Grid,
    ids: Mapping[str, int],
    organs: Sequence[str],
    version: int | None,
    all_searched: bool = False,
) -> tuple[list[str], Iterator[Organ]]:
    """Names of the organs in a label map whose header names the labels `ids`, and these organs."""
    source = grid.source
    sizes = label_sizes(labels)
    present = {number for number in np.flatnonzero(sizes).tolist() if number}
    classes = len(ids)
    if not ids:
        ids, classes = _numbers_without_names(sizes * abs(np.linalg.det(grid.affine[:3, :3])) / 1000, source, version)
    numbers = {organ: [ids[part] for part in _parts(organ, ids)] for organ in organs if _parts(organ, ids)}
    if not numbers:
        raise VolumeError(
            f"{source} names its labels {', '.join(list(ids)[:5])}, ...: none of {', '.join(organs)}. Is it the "
            "output of task total?"
        )
    _tell_missing(numbers, organs, source)
    empty = [organ for organ, values in numbers.items() if not present & {*values}]
    if empty and not all_searched and not were_all_searched(classes, len(present)):
        warnings.warn(
            f"{source} has names but no voxel for {', '.join(empty)}. Only {len(present)} of its {classes} classes "
            "have voxels, so this may be a run for a subset (--roi_subset), which did not search for them; they are "
            "left out and do not count as absent.",
            stacklevel=3,
        )
        numbers = {organ: values for organ, values in numbers.items() if organ not in empty}
    return list(numbers), (Organ(name, np.isin(labels, values), grid) for name, values in numbers.items())


def _numbers_without_names(sizes_ml: np.ndarray, source: str, version: int | None) -> tuple[dict[str, int], int]:
    """Number of each organ in a label map without names, and how many classes its version has."""
    largest = len(sizes_ml) - 1
    if largest <= 1 or largest > max(CLASSES.values()):
        raise VolumeError(
            f"{source}: labels up to {largest} and no names in the header; TotalSegmentator's map of all "
            f"classes has up to {max(CLASSES.values())}. For masks of single organs, give their folder."
        )
    tables = {1: TOTAL_V1, 2: TOTAL_V2}
    if version is not None:
        return tables[version], CLASSES[version]
    against = {one: list(_against(one, sizes_ml)) for one in CLASSES}
    fitting = [one for one in CLASSES if not against[one]]
    if not fitting:
        reasons = "; ".join(f"version {one}: {reasons[0]}" for one, reasons in against.items())
        raise VolumeError(
            f"{source} does not name its labels, and they are neither those of TotalSegmentator 1 nor 2, task total "
            f"({reasons}). If you know the version, give version=1 or version=2."
        )
    if len(fitting) == 1:
        (judged,) = fitting
        (other,) = CLASSES.keys() - {judged}
        warnings.warn(
            f"{source} does not name its labels; they are taken for those of TotalSegmentator {judged}, task total, "
            f"because of version {other} they cannot be: {against[other][0]}.",
            stacklevel=4,
        )
        return tables[judged], CLASSES[judged]
    shared = {name: number for name, number in TOTAL_V2.items() if TOTAL_V1.get(name) == number}
    warnings.warn(
        f"{source} does not name its labels, and they may be those of TotalSegmentator 1 or 2, task total; only "
        f"{', '.join(shared)} are read, which have the same numbers in both. If you know the version, give version=1 "
        "or version=2.",
        stacklevel=4,
    )
    return shared, max(CLASSES.values())


def _against(version: int, sizes_ml: np.ndarray) -> Iterator[str]:
    """Why a label map cannot be of a version."""
    if len(sizes_ml) - 1 > CLASSES[version]:
        yield f"it has a label {len(sizes_ml) - 1}, and that version {CLASSES[version]} classes"
    for name, first, last, limit_ml in _SMALL[version]:
        for number, size_ml in enumerate(sizes_ml[first : last + 1].tolist(), first):
            if size_ml > limit_ml:
                yield f"label {number} has {size_ml:.0f} mL, too much for the {name} that it would be"


def _tell_missing(names: Container[str], organs: Sequence[str], source: str) -> None:
    absent = [organ for organ in organs if organ not in names]
    if absent:
        warnings.warn(f"{source} has no label for {', '.join(absent)}.", stacklevel=4)


def _numbers_in_header(header: nib.Nifti1Header | None) -> dict[str, int]:
    """Label of each name, from the table that TotalSegmentator writes into a NIfTI extension; empty without one."""
    return {name: number for number, name in names_in_header(header).items()}


def _names_by_label(names: list[str], organs: Sequence[str]) -> dict[int, str]:
    """The name of each label in the output."""
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
