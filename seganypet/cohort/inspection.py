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
    label_ids, convention_unclear        error    labels that nothing stated explains; no or several conventions match
    ignored, anatomy                     warning  voxels that nobody annotated, or of organs, which count as no lesion
    convention_detected                  warning  no convention was stated; this one matches
    convention_doubtful                  warning  the size of label 7 contradicts the stated convention
    sides, upside_down                   warning  left and right, or head and feet, seem to be exchanged
    organ_size                           warning  larger than twice what nearly all patients have
    lesions_everywhere                   warning  more than a fifth of the scan is lesion
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np

from seganypet.cohort.case import Case
from seganypet.cohort.label_checks import check_lesions, check_organs
from seganypet.errors import SegAnyPETError, VolumeError
from seganypet.pet.grids import check_on_grid, corner_shifts_mm
from seganypet.pet.image_file import ImageFile, check_labels, fill_outside
from seganypet.pet.volume import open_image

if TYPE_CHECKING:
    import pandas

PARTS = ("pet", "ct", "organs", "lesions")  # fields of a Case that name files

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
            if part in images and case.label_grid is None:
                try:
                    check_on_grid(images[part], pet, turned=True)
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
        if {part, roles.get(os.path.realpath(path or ""))} == {"organs", "lesions"} and found.case.organ_labels:
            continue  # one label map of both, whose numbers are stated
        if path is not None and (first := roles.setdefault(os.path.realpath(path), part)) != part:
            found.note(part, "same_file", f"is also this case's {first}; name another file or leave the cell blank.")


def _open(found: Inspection, part: str) -> ImageFile | None:
    """The file of one part, with its header read; None if there is no usable file."""
    path = getattr(found.case, part)
    if path is None:
        return None
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist, or permission to enter its folder is denied"
        found.note(part, "missing", f"{what}; correct the path, or restore the file.")
        return None
    try:
        image = open_image(path)
    except SegAnyPETError as error:
        found.note(part, "unreadable", _without_path(error, path))
        return None
    sizes = nib.affines.voxel_sizes(image.affine)
    if sizes.min() < 0.3 or sizes.max() > 20:
        listed = " x ".join(f"{size:.3g}" for size in sizes)
        found.note(part, "voxel_size", f"voxels of {listed} mm; is the header in millimetres?", "warning")
    for assumption in image.assumptions:
        found.note(part, "no_affine", assumption, "warning")
    if image.contradiction is not None:
        found.note(part, "geometry", _without_path(image.contradiction, path))
    elif {"sform", "qform"} <= image.forms.keys():
        shifts_mm = corner_shifts_mm(image.forms["qform"], image.forms["sform"], image.shape)
        apart_mm = np.linalg.norm(shifts_mm, axis=1).max()
        if apart_mm > 1:
            found.note(
                part, "qform_sform",
                f"its two affines differ by {apart_mm:.3g} mm at a corner; this package uses the sform, other programs "
                "may use the qform. Write one of them into both.", "warning",
            )  # fmt: skip
    return image


def _describe_grid(found: Inspection, pet: ImageFile) -> None:
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


def _check_cover(found: Inspection, ct: ImageFile, pet: ImageFile) -> None:
    """Warn if less than half of the PET's box lies in the CT's, judged at a lattice of points."""
    lattice = np.stack(np.meshgrid(*[np.linspace(0, size - 1, 9) for size in pet.shape], indexing="ij"), axis=-1)
    in_ct = nib.affines.apply_affine(np.linalg.inv(ct.affine) @ pet.affine, lattice)
    fraction = ((in_ct >= -0.5) & (in_ct <= np.array(ct.shape) - 0.5)).all(axis=-1).mean()
    if fraction < 0.5:
        found.note("ct", "ct_elsewhere", f"covers {fraction:.0%} of the PET; is it from the same study?", "warning")


def _read(found: Inspection, part: str, image: ImageFile) -> None:
    """Inspect the voxels of one file without keeping them."""
    path = getattr(found.case, part)
    try:
        data = image.voxels()
    except VolumeError as error:
        found.note(part, "unreadable", _without_path(error, path))
        return
    if part in ("pet", "ct"):
        _check_image(found, part, data)
    else:
        try:
            labels = check_labels(data, str(path), image.step)
        except VolumeError as error:
            found.note(part, "not_labels", _without_path(error, path))
            return
        (check_organs if part == "organs" else check_lesions)(found, labels, image.affine)


def _check_image(found: Inspection, part: str, data: np.ndarray) -> None:
    if part == "pet":
        import hashlib

        found.digest = hashlib.sha256(np.ascontiguousarray(data).view(np.uint8).data).digest()
    data, outside = fill_outside(data, 0.0)
    if outside:
        found.note(part, "nan_outside", f"{outside} voxels around the scan are NaN; they are read as empty.", "warning")
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
    if unit == "SUVbw" and lowest < -200:  # no noise of a PET in SUV goes that far down
        found.note(part, "unit_range", f"values from {lowest:.4g} to {highest:.4g}: is it a CT in HU, not a PET?")
        return
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


def _without_path(error: SegAnyPETError | str, path: Path) -> str:
    """The error's message without the path, which `note` adds."""
    return str(error).removeprefix(f"{path}").lstrip(": ")


def same_scans(found: Iterable[Inspection]) -> Iterator[Problem]:
    """Scans that occur twice in a cohort: the same voxels, or, where those were not read, the same file."""
    first_of: dict[bytes | str, Case] = {}
    for one in found:
        case = one.case
        first = first_of.setdefault(one.digest or os.path.realpath(case.pet), case)
        if first is not case:
            apart = first.patient != case.patient or first.split != case.split
            message = f"{case.pet}: the scan of case {first.name} (patient {first.patient}, split {first.split}) again."
            yield Problem(case.name, case.patient, "pet", "same_scan", "error" if apart else "warning", message)
