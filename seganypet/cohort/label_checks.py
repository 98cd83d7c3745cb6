"""Checks of drawn labels: what their numbers mean, and whether organs are where and as large as organs are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from scipy import ndimage

from seganypet.cohort.labels import (
    IGNORE,
    ORGAN_CONVENTIONS,
    counted,
    detect_organ_convention,
    numbers_within,
    organ_numbers,
)
from seganypet.errors import CohortError
from seganypet.pet.label_files import names_in_file
from seganypet.regions import CONNECTED_26, bounding_box, label_sizes

if TYPE_CHECKING:
    from seganypet.cohort.inspection import Inspection

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


def check_organs(found: "Inspection", labels: np.ndarray, affine: np.ndarray) -> None:
    """Add what is found in a label map of organs, on a grid with this affine, to the row and the problems of a case."""
    case, voxel_ml = found.case, abs(np.linalg.det(affine[:3, :3])) / 1000
    named = _stated_organs(found, labels)
    if named is not None:
        _describe_organs(found, *named, affine)
        return
    sizes_ml = label_sizes(labels) * voxel_ml
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
    found.row["organ_convention"] = convention
    _describe_organs(found, labels, names, affine)


def _stated_organs(found: "Inspection", labels: np.ndarray) -> tuple[np.ndarray, Mapping[int, str]] | None:
    """Labels and names if `organ_labels` or the file's header says what they are; None if a convention has to."""
    case = found.case
    if numbers := case.numbers_of("organs"):
        try:
            if strange := case.strange_numbers(labels, "organs"):
                raise CohortError(f"labels {strange} are not in organ_labels={case.organ_labels!r}.")
            return organ_numbers(labels, numbers)
        except CohortError as error:
            found.note("organs", "label_ids", str(error))
            return labels, {}
    if case.organ_convention is None:
        return (labels, names) if (names := names_in_file(case.organs)) else None
    return None


def _describe_organs(found: "Inspection", labels: np.ndarray, names: Mapping[int, str], affine: np.ndarray) -> None:
    """The row's number of organs, and problems of their sizes and places."""
    sizes_ml = label_sizes(labels) * abs(np.linalg.det(affine[:3, :3])) / 1000
    organs = {label: names[label] for label in np.flatnonzero(sizes_ml).tolist() if label in names}
    found.row["organs"] = len(organs)
    boxes, centres_mm = ndimage.find_objects(labels), {}
    for label, name in organs.items():
        if sizes_ml[label] > _LARGEST_ML.get(name, np.inf):
            limit = f"twice a very large one has {_LARGEST_ML[name]} mL"
            found.note("organs", "organ_size", f"{name} has {sizes_ml[label]:.0f} mL; {limit}.", "warning")
        centres_mm[name] = nib.affines.apply_affine(affine, _centre(labels, label, boxes[label - 1]))
    _check_positions(found, centres_mm)


def _centre(labels: np.ndarray, label: int, box: tuple[slice, ...]) -> list[float]:
    """Centre of mass of a label in voxels, which a distant stray voxel hardly changes."""
    mask = labels[box] == label
    along = [mask.sum(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return [part.start + float(np.average(np.arange(n.size), weights=n)) for part, n in zip(box, along, strict=True)]


def _check_positions(found: "Inspection", centres_mm: dict[str, np.ndarray]) -> None:
    """Compare the positions of organs with those in nearly every patient; centres are in RAS+ mm."""
    for axis, kind, pairs, where in ((0, "sides", _RIGHT_OF, "the right of"), (2, "upside_down", _ABOVE, "above")):
        pairs = [pair for pair in pairs if set(pair) <= set(centres_mm)]
        wrong = [pair for pair in pairs if centres_mm[pair[0]][axis] < centres_mm[pair[1]][axis]]
        if wrong:
            listed = ", ".join(f"{one} is not {'to ' * (axis == 0)}{where} {other}" for one, other in wrong)
            cause = "the file's affine is mirrored" if len(wrong) == len(pairs) > 1 else "labels are exchanged"
            found.note("organs", kind, f"{listed}; check whether {cause}.", "warning")


def check_lesions(found: "Inspection", labels: np.ndarray, affine: np.ndarray) -> None:
    """As `check_organs`, of lesions."""
    case = found.case
    if numbers := case.numbers_of("lesions"):
        if strange := case.strange_numbers(labels, "lesions"):
            found.note("lesions", "label_ids", f"labels {strange} are not in lesion_labels={case.lesion_labels!r}.")
        ignored = int(np.isin(labels, numbers.get(IGNORE, ())).sum())
        if ignored:
            message = f"{ignored} voxels are marked to be ignored, as nobody annotated them; they count as no lesion."
            found.note("lesions", "ignored", message, "warning")
        labels = numbers_within(labels, (value for values in counted(numbers).values() for value in values))
    elif anatomy := case.anatomy_among_lesions():
        names = ", ".join(sorted(anatomy.values()))
        message = f"its header names {names}, which are no lesions and do not count as such."
        found.note("lesions", "anatomy", message, "warning")
        labels = numbers_within(labels, {*np.unique(labels).tolist()} - {*anatomy})
    mask = labels > 0
    voxels = int(mask.sum())
    box = bounding_box(mask)  # lesions fill a small part of a scan
    found.row["lesions"] = 0 if box is None else int(ndimage.label(mask[box], CONNECTED_26)[1])
    found.row["lesions_ml"] = round(voxels * abs(np.linalg.det(affine[:3, :3])) / 1000, 2)
    if voxels > 0.2 * mask.size:
        fraction = f"{voxels / mask.size:.0%} of the scan is lesion"
        found.note("lesions", "lesions_everywhere", f"{fraction}; are background and lesion exchanged?", "warning")
