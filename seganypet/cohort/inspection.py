"""Inspection of a case's files: a row for a report, and a list of all problems, without raising.

An *error* means that the case cannot be used as it is; a *warning*, that somebody should look at it. Problems of files:

    missing, unreadable, other_grid      error    no such file; damaged, cut short, not 3D; labels not on the PET's grid
    same_file                            error    one file in two roles
    nan, empty, unit_range               error    of PET and CT: not a number; constant; values that cannot be in the
                                                  stated unit (for a CT a warning: it may show no air)
    negative                             warning  PET far below 0, as after a normalisation
    qform_sform, no_affine               warning  the header's two affines differ, so programs may disagree; no affine
    voxel_size, field_of_view            warning  implausible for a scanner: is the header in millimetres?
    ct_elsewhere                         warning  the CT covers less than half of the PET
    not_labels, empty                    error    fractions or negative labels; an organ map without an organ
    label_ids, convention_unclear        error    labels outside the stated convention; no or several conventions match
    convention_detected                  warning  no convention was stated; this one matches
    convention_doubtful                  warning  the size of label 7 contradicts the stated convention
    sides, upside_down                   warning  left and right, or head and feet, seem to be exchanged
    organ_size                           warning  larger than twice what nearly all patients have
    lesions_everywhere                   warning  more than a fifth of the scan is lesion
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np
from scipy import ndimage

from seganypet.cohort.case import Case
from seganypet.cohort.labels import ORGAN_CONVENTIONS, detect_organ_convention
from seganypet.errors import CohortError, SegAnyPETError, VolumeError
from seganypet.pet.volume import Grid, check_labels, check_on_grid, corner_shifts_mm, open_nifti, read_voxels
from seganypet.regions import CONNECTED_26, bounding_box

if TYPE_CHECKING:
    import pandas

PARTS = ("pet", "ct", "organs", "lesions")  # fields of a Case that name files

# In mL: twice the 99th percentile of 912 scans (prostate: of the 95th); lungs: twice the largest fraction of 5 L.
_LARGEST_ML = {
    "liver": 6000, "kidney_left": 580, "kidney_right": 570, "heart": 2170, "spleen": 1620, "aorta": 820,
    "prostate": 200, "lung_lower_lobe_left": 2600, "lung_lower_lobe_right": 2600,
    "lung_upper_lobe_left": 2600, "lung_upper_lobe_right": 2600, "lung_middle_lobe_right": 1300,
}  # fmt: skip
# The first lies further to the patient's right than the second.
_RIGHT_OF = (
    ("kidney_right", "kidney_left"),
    ("lung_lower_lobe_right", "lung_lower_lobe_left"),
    ("lung_upper_lobe_right", "lung_upper_lobe_left"),
    ("liver", "spleen"),
)
# The first lies further up than the second.
_ABOVE = (("heart", "kidney_left"), ("heart", "kidney_right"), ("liver", "prostate"), ("heart", "prostate"))
_SAMPLED = 2_000_000  # voxels used for a percentile; exact percentiles of 50 million take a second


class Problem(NamedTuple):
    """One problem of a case.

    Attributes:
        case: Name of the case; blank for a whole table.
        patient: The case's patient.
        part: "pet", "ct", "organs", "lesions" or "table".
        problem: Kind of problem, in a word.
        severity: "error" or "warning".
        message: What was found, what was expected, what to do.
    """

    case: str
    patient: str
    part: str
    problem: str
    severity: str
    message: str


def problem_table(problems: Iterable[Problem]) -> "pandas.DataFrame":
    """One row per problem, with the columns of `Problem`."""
    import pandas

    return pandas.DataFrame(list(problems), columns=Problem._fields)


@dataclass
class Inspection:
    """The result of inspecting a case.

    Attributes:
        case: The case.
        row: Columns of a cohort report, without those that are unknown.
        problems: Problems in the order of the files.
        digest: Digest of the PET's voxels, to find duplicate scans; None if they were not read.
    """

    case: Case
    row: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    digest: bytes | None = None

    def note(self, part: str, problem: str, message: str, severity: str = "error") -> None:
        """Add a problem."""
        path = getattr(self.case, part)
        self.problems.append(Problem(self.case.name, self.case.patient, part, problem, severity, f"{path}: {message}"))


def inspect_case(case: Case, voxels: bool = True) -> Inspection:
    """Read the files of a case, one after the other, and describe their contents and problems.

    Args:
        case: Case to inspect; its files need not exist.
        voxels: Whether to read voxels too; headers alone take milliseconds and show only the grids.

    Returns:
        The problems, and a row with `shape`, `spacing_mm`, `field_of_view_mm`, `orientation` (nibabel's axis codes),
        `oblique_deg`; and from voxels `pet_min`, `pet_p99`, `pet_max` (in the case's unit), `organs`,
        `organ_convention`, `lesions` (number of 26-connected components), `lesions_ml`.
    """
    found = Inspection(case)
    _check_roles(found)
    images = {part: image for part in PARTS if (image := _open(found, part)) is not None}
    if "pet" in images:
        pet = images["pet"]
        _describe_grid(found, pet)
        for part in ("organs", "lesions"):
            if part in images:
                try:
                    check_on_grid(Grid.of(images[part], getattr(case, part)), Grid.of(pet, case.pet))
                except SegAnyPETError as error:
                    found.note(part, "other_grid", _without_path(error, getattr(case, part)))
        if "ct" in images:
            _check_cover(found, images["ct"], pet)
    if voxels:
        for part, image in images.items():
            _read(found, part, image)
    return found


def _check_roles(found: Inspection) -> None:
    roles: dict[str, str] = {}
    for part in PARTS:
        path = getattr(found.case, part)
        if path is not None and (first := roles.setdefault(os.path.realpath(path), part)) != part:
            found.note(part, "same_file", f"is also this case's {first}; name another file or leave the cell blank.")


def _open(found: Inspection, part: str) -> nib.Nifti1Pair | None:
    """The file of one part, with its header read; None if there is no usable file."""
    path = getattr(found.case, part)
    if path is None:
        return None
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist, or permission to enter its folder is denied"
        found.note(part, "missing", f"{what}; correct the path, or restore the file.")
        return None
    try:
        image = open_nifti(path)
    except SegAnyPETError as error:
        found.note(part, "unreadable", _without_path(error, path))
        return None
    sizes = nib.affines.voxel_sizes(image.affine)
    if sizes.min() < 0.3 or sizes.max() > 20:
        listed = " x ".join(f"{size:.3g}" for size in sizes)
        found.note(part, "voxel_size", f"voxels of {listed} mm; is the header in millimetres?", "warning")
    header = image.header
    if header["qform_code"] == header["sform_code"] == 0:
        found.note(
            part, "no_affine", "the header has no affine (both codes are 0), so left and right are a guess; write the "
            "file again with its affine.", "warning",
        )  # fmt: skip
    if header["qform_code"] > 0 and header["sform_code"] > 0:
        try:
            shifts_mm = corner_shifts_mm(header.get_qform(), header.get_sform(), image.shape)
            apart_mm = np.linalg.norm(shifts_mm, axis=1).max()
        except (nib.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError):
            apart_mm = np.inf
        if apart_mm > 1:
            found.note(
                part, "qform_sform",
                f"its two affines differ by {apart_mm:.3g} mm at a corner; this package uses the sform, other programs "
                "may use the qform. Write one of them into both.", "warning",
            )  # fmt: skip
    return image


def _describe_grid(found: Inspection, pet: nib.Nifti1Pair) -> None:
    sizes = nib.affines.voxel_sizes(pet.affine)
    extent_mm = sizes * pet.shape
    found.row["shape"] = tuple(pet.shape)
    found.row["spacing_mm"] = tuple(round(float(size), 3) for size in sizes)
    found.row["field_of_view_mm"] = tuple(round(float(size)) for size in extent_mm)
    found.row["orientation"] = "".join(nib.aff2axcodes(pet.affine))
    found.row["oblique_deg"] = round(float(np.rad2deg(nib.affines.obliquity(pet.affine).max())), 1)
    if extent_mm.min() < 50 or extent_mm.max() > 2600:
        listed = " x ".join(f"{size:.4g}" for size in extent_mm)
        found.note("pet", "field_of_view", f"covers {listed} mm; expected 50 to 2600 mm.", "warning")


def _check_cover(found: Inspection, ct: nib.Nifti1Pair, pet: nib.Nifti1Pair) -> None:
    """Warn if less than half of the PET's box lies in the CT's, judged at a lattice of points."""
    lattice = np.stack(np.meshgrid(*[np.linspace(0, size - 1, 9) for size in pet.shape], indexing="ij"), axis=-1)
    in_ct = nib.affines.apply_affine(np.linalg.inv(ct.affine) @ pet.affine, lattice)
    fraction = ((in_ct >= -0.5) & (in_ct <= np.array(ct.shape) - 0.5)).all(axis=-1).mean()
    if fraction < 0.5:
        found.note("ct", "ct_elsewhere", f"covers {fraction:.0%} of the PET; is it from the same study?", "warning")


def _read(found: Inspection, part: str, image: nib.Nifti1Pair) -> None:
    """Inspect the voxels of one file without keeping them."""
    path = getattr(found.case, part)
    try:
        data = read_voxels(image, path)
    except VolumeError as error:
        found.note(part, "unreadable", _without_path(error, path))
        return
    if part in ("pet", "ct"):
        _check_image(found, part, data)
    else:
        try:
            labels = check_labels(data, str(path))
        except VolumeError as error:
            found.note(part, "not_labels", _without_path(error, path))
            return
        (_check_organs if part == "organs" else _check_lesions)(found, labels, image.affine)


def _check_image(found: Inspection, part: str, data: np.ndarray) -> None:
    if part == "pet":
        import hashlib

        found.digest = hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data).digest()
    lowest, highest = float(data.min()), float(data.max())
    limit = float(np.finfo(np.float32).max)  # volumes are float32
    if not (np.isfinite(lowest + highest) and max(-lowest, highest) < limit):
        bad = int((~np.isfinite(data) | (np.abs(data) >= limit)).sum())
        found.note(part, "nan", f"{bad} of {data.size} voxels are NaN or infinite; every voxel needs a number.")
        return
    if lowest == highest:
        found.note(part, "empty", f"every voxel is {lowest:g}; is it a mask, or did the export fail?")
        return
    if part == "ct":
        if lowest > -500:
            found.note(
                part, "unit_range", f"values from {lowest:g} to {highest:g}, none of which is air (-1000 HU); was it "
                "stored without its intercept, or normalised?", "warning",
            )  # fmt: skip
        return
    stride = max(1, data.size // _SAMPLED)
    sampled = data.ravel(order="K")[::stride]
    p99 = float(np.percentile(sampled, 99))
    inside = sampled[sampled > 0.1]
    middle = float(np.median(inside)) if inside.size else 0.0
    found.row |= {"pet_min": round(lowest, 3), "pet_p99": round(p99, 3), "pet_max": round(highest, 3)}
    unit = found.case.pet_unit
    # By definition the body's mean SUV is about 1, so its median is never above 20, nor its maximum below 1.
    if unit == "SUVbw" and (middle > 20 or highest <= 1):
        found.note(
            part, "unit_range", f"median {middle:.4g} where it is not 0, maximum {highest:.4g}: implausible for SUVbw; "
            "is it in Bq/mL, 8 bits, or normalised? Correct pet_unit or convert.",
        )  # fmt: skip
    if unit == "Bq/mL" and highest < 200:
        found.note(
            part, "unit_range", f"the maximum is {highest:.4g} Bq/mL, which is very low; is it already SUVbw?",
            "warning",
        )  # fmt: skip
    if lowest < -0.05 * highest:
        found.note(
            part, "negative", f"minimum {lowest:.4g}, maximum {highest:.4g}; activity is not negative. Was it "
            "normalised, or resampled with a spline?", "warning",
        )  # fmt: skip


def _check_organs(found: Inspection, labels: np.ndarray, affine: np.ndarray) -> None:
    case, voxel_ml = found.case, abs(np.linalg.det(affine[:3, :3])) / 1000
    sizes_ml = np.bincount(labels.ravel()) * voxel_ml
    present = [int(label) for label in np.flatnonzero(sizes_ml) if label]
    label_7_ml = float(sizes_ml[7:8].sum())
    if not present:
        found.note("organs", "empty", "no voxel is labelled; draw the organs, or leave the cell blank.")
        return
    try:
        detected = detect_organ_convention(present, label_7_ml)
    except CohortError as error:
        if case.organ_convention is None:
            found.note("organs", "convention_unclear", str(error))
            return
        detected = case.organ_convention
    if case.organ_convention is None:
        found.note(
            "organs", "convention_detected", f"no organ_convention is stated; labels {present} match {detected!r}. "
            "Enter it in the table if that is right.", "warning",
        )  # fmt: skip
    convention = case.organ_convention or detected
    names = ORGAN_CONVENTIONS[convention]
    strange = [label for label in present if label not in names]
    if strange:
        found.note(
            "organs", "label_ids", f"labels {strange} are not in organ_convention={convention!r} (it has {min(names)} "
            f"to {max(names)}).",
        )  # fmt: skip
    elif 7 in present and ORGAN_CONVENTIONS[detected][7] != names[7]:
        found.note(
            "organs", "convention_doubtful", f"label 7 has {label_7_ml:.0f} mL, implausible for {names[7]}; the labels "
            f"would match {detected!r}.", "warning",
        )  # fmt: skip
    organs = {label: names[label] for label in present if label in names}
    found.row |= {"organs": len(organs), "organ_convention": convention}
    boxes, centres_mm = ndimage.find_objects(labels), {}
    for label, name in organs.items():
        if sizes_ml[label] > _LARGEST_ML[name]:
            limit = f"twice a very large one has {_LARGEST_ML[name]} mL"
            found.note("organs", "organ_size", f"{name} has {sizes_ml[label]:.0f} mL; {limit}.", "warning")
        centres_mm[name] = nib.affines.apply_affine(affine, _centre(labels, label, boxes[label - 1]))
    _check_positions(found, centres_mm)


def _centre(labels: np.ndarray, label: int, box: tuple[slice, ...]) -> list[float]:
    """Centre of mass of a label in voxels, which a distant stray voxel hardly changes."""
    mask = labels[box] == label
    along = [mask.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return [part.start + float(np.average(np.arange(n.size), weights=n)) for part, n in zip(box, along, strict=True)]


def _check_positions(found: Inspection, centres_mm: dict[str, np.ndarray]) -> None:
    """Compare the positions of organs with those in nearly every patient; centres are in RAS+ mm."""
    for axis, kind, pairs, where in ((0, "sides", _RIGHT_OF, "the right of"), (2, "upside_down", _ABOVE, "above")):
        pairs = [pair for pair in pairs if set(pair) <= set(centres_mm)]
        wrong = [pair for pair in pairs if centres_mm[pair[0]][axis] < centres_mm[pair[1]][axis]]
        if wrong:
            listed = ", ".join(f"{one} is not {'to ' * (axis == 0)}{where} {other}" for one, other in wrong)
            cause = "the file's affine is mirrored" if len(wrong) == len(pairs) > 1 else "labels are exchanged"
            found.note("organs", kind, f"{listed}; check whether {cause}.", "warning")


def _check_lesions(found: Inspection, labels: np.ndarray, affine: np.ndarray) -> None:
    mask = labels > 0
    voxels = int(mask.sum())
    box = bounding_box(mask)  # lesions fill a small part of a scan
    found.row["lesions"] = 0 if box is None else int(ndimage.label(mask[box], CONNECTED_26)[1])
    found.row["lesions_ml"] = round(voxels * abs(np.linalg.det(affine[:3, :3])) / 1000, 2)
    if voxels > 0.2 * mask.size:
        fraction = f"{voxels / mask.size:.0%} of the scan is lesion"
        found.note("lesions", "lesions_everywhere", f"{fraction}; are background and lesion exchanged?", "warning")


def _without_path(error: SegAnyPETError, path: Path) -> str:
    """The error's message without the path, which `note` adds."""
    return str(error).removeprefix(f"{path}").lstrip(": ")
