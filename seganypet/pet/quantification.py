"""A mask on a PET in numbers: SUVmax, SUVmean, SUVpeak, MTV, TLG and SUL, with their definitions."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seganypet.errors import DoubtfulValuesWarning, GeometryError, SUVError, UnitError, VolumeError, renamed_keywords
from seganypet.pet.given import note
from seganypet.pet.image_file import check_labels
from seganypet.pet.plausibility import warn_if_implausible
from seganypet.pet.suv import sul_per_suvbw
from seganypet.pet.threshold_rules import Rule, Threshold, ThresholdRule
from seganypet.pet.volume import Volume
from seganypet.regions import Box, bounding_box

if TYPE_CHECKING:
    import pandas

# Radius of a sphere of 1 cm3 (diameter 12.4 mm).
PEAK_RADIUS_MM = 10.0 * (3.0 / (4.0 * np.pi)) ** (1.0 / 3.0)

Masks = np.ndarray | Mapping[str, np.ndarray]


@renamed_keywords(rule="threshold")
def quantify(
    volume: Volume,
    mask: Masks,
    *,
    names: Mapping[int, str] | None = None,
    threshold: Rule | None = None,
    peak: str = "global",
    sul: str | Sequence[str] = (),
) -> "pandas.DataFrame":
    """SUVmax, SUVmean, SUVpeak, MTV and TLG of one or several objects, and SULs on request.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        mask: Bool mask, integer label map (0 is background), or several bool masks by name; shape (I, J, K).
        names: Names of the labels of a label map; a label that does not occur gives an empty object. Default: every
            label that occurs, as "label 3".
        threshold: Rule that narrows each mask first, see `threshold_mask`; None: masks as given.
        peak: Where the 1 cm3 sphere of SUVpeak may be centred: "global", on any voxel of the mask, or
            "local", on its hottest voxel.
        sul: Formulas of lean body mass, "janmahasatian" and "james"; each adds the rows SULmax, SULmean and
            SULpeak, e.g. "SULpeak_james". Body weight, height and sex are taken from `volume.metadata`.

    Returns:
        One row per object and quantity: object, quantity, value, unit, definition, source. An empty mask has MTV 0
        and TLG 0; its SUVs and SULs are NaN. `threshold` is applied to SUVbw, for SULs too.

    Raises:
        UnitError: `volume` is not in SUVbw.
        GeometryError: The mask has another shape.
        VolumeError: The mask holds fractions; `threshold` or `peak` is unknown.
        SUVError: An SUL was requested, and `sul_factor` cannot be computed.

    Warns:
        DoubtfulValuesWarning: The volume's values cannot be SUVs, and nothing has said so yet.

    Source: Wahl et al., J Nucl Med 2009 (PERCIST; SUVpeak); Boellaard et al., EJNMMI 2015 (EANM 2.0).
    """
    import pandas

    check_suvbw(volume)
    warn_if_implausible(volume)
    rule = check_rule(threshold, peak)
    formulas = dict.fromkeys([sul] if isinstance(sul, str) else sul)
    lean = {formula: sul_factor(volume, formula) for formula in formulas}
    weights = peak_weights(volume.affine)
    rows = []
    for name, box, in_box in _objects(volume, mask, names):
        if rule is not None:
            in_box = in_box & _above(volume.data[box], in_box, rule)
        measured = _measure(volume, box, in_box, weights, rule, peak)
        for formula, factor in lean.items():
            measured += _as_sul(measured[:3], formula, factor, factor * volume.metadata["weight_kg"])
        rows += [(name, *row, volume.source) for row in measured]
    return pandas.DataFrame(rows, columns=["object", "quantity", "value", "unit", "definition", "source"])


def threshold_mask(volume: Volume, mask: np.ndarray, threshold: Rule) -> np.ndarray:
    """Voxels of a mask that count as metabolically active.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        mask: Bool, shape (I, J, K).
        threshold: "SUV>=4", SUVbw of at least 4; "41% SUVmax", at least 41 % of the SUVmax in the mask (see
            `ThresholdRule`); or a `Threshold`.

    Returns:
        Bool, shape (I, J, K).

    Raises:
        UnitError, GeometryError, VolumeError: As `quantify`.
    """
    mask = check_mask(volume, mask, "mask")
    return mask & _above(volume.data, mask, check_rule(threshold))


def sul_factor(volume: Volume, formula: str = "janmahasatian") -> float:
    """SUL / SUVbw of the patient in `volume`, dimensionless: lean body mass over body weight.

    Args:
        volume: Volume with `weight_kg`, `height_m` and `sex` in its metadata, as from load_dicom and make_phantom.
        formula: Formula of lean body mass, "janmahasatian" or "james", see `suv.lean_body_mass`.

    Raises:
        SUVError: One of the three is missing or impossible, or the formula is unknown.

    >>> person = {"weight_kg": 91.0, "height_m": 1.88, "sex": "M"}
    >>> round(sul_factor(Volume(np.ones((2, 2, 2)), np.eye(4), "SUVbw", metadata=person), "james"), 4)
    0.7704
    """
    person = {key: volume.metadata.get(key) for key in ("weight_kg", "height_m", "sex")}
    for key in ("weight_kg", "height_m"):
        value = person[key]
        is_number = isinstance(value, int | float | np.integer | np.floating)
        if value is not None and not (is_number and abs(value) < math.inf):
            raise SUVError(f"{volume.source}: {key} in its metadata is {value!r}; expected a number.")
    try:
        return sul_per_suvbw(**person, formula=formula)
    except SUVError as error:
        message = f"{volume.source}: {error} Of a DICOM series, give weight_kg, height_m or sex to load_dicom."
        if None in person.values():
            message += (
                " A NIfTI file does not hold it, but the JSON file beside it may (BodyWeight, BodyHeight, PatientSex). "
                "Or add it: dataclasses.replace(volume, metadata={**volume.metadata, "
                "'weight_kg': 70.0, 'height_m': 1.75, 'sex': 'F'}), with this patient's values."
            )
        raise SUVError(message) from None


def peak_weights(affine: np.ndarray) -> np.ndarray:
    """Millilitres of a 1 cm3 sphere in each voxel around its centre voxel.

    Args:
        affine: Affine of the grid, which may be oblique and anisotropic, shape (4, 4).

    Returns:
        Weights that sum to 1, shape (odd, odd, odd), float64. Voxels are divided into pieces of at most 0.4 mm, of
        which those with their centre inside the sphere count.
    """
    matrix = np.asarray(affine, float)[:3, :3]
    # Half-extent of the sphere in voxels along each axis, exact for sheared grids too.
    reach = np.linalg.norm(np.linalg.inv(matrix), axis=1) * PEAK_RADIUS_MM
    half = np.ceil(reach - 0.5).astype(int).clip(0)
    pieces = np.ceil(np.linalg.norm(matrix, axis=0) / 0.4).astype(int)
    # Coordinates of all pieces along each axis, in voxels from the centre.
    along = [(np.arange((2 * h + 1) * n) + 0.5) / n - 0.5 - h for h, n in zip(half, pieces, strict=True)]
    in_plane = matrix[:, 0, None, None] * along[0][:, None] + matrix[:, 1, None, None] * along[1]  # (3, i, j)
    rows, columns = 2 * half[0] + 1, 2 * half[1] + 1
    weights = np.zeros((rows, columns, 2 * half[2] + 1))
    for index, position in enumerate(along[2]):  # plane by plane: memory stays small on fine grids
        from_centre = in_plane + (matrix[:, 2] * position)[:, None, None]
        inside = (from_centre**2).sum(axis=0) <= PEAK_RADIUS_MM**2
        weights[:, :, index // pieces[2]] += inside.reshape(rows, pieces[0], columns, pieces[1]).sum(axis=(1, 3))
    return weights / weights.sum()


def check_rule(threshold: Rule | None, peak: str = "global") -> ThresholdRule | Threshold | None:
    """The rule behind `threshold`; VolumeError unless `quantify` knows it, and this kind of peak."""
    if peak not in ("global", "local"):
        raise VolumeError(f"peak={peak!r}; expected 'global' or 'local'.")
    if threshold is None or isinstance(threshold, Threshold):
        return threshold
    rule = ThresholdRule.parse(threshold)
    if rule.is_band or rule.from_hottest:
        raise VolumeError(
            f"threshold rule {str(rule)!r} grows from a click, and there is none here; expected a rule such as "
            "'41% SUVmax' or 'SUV>=4', or a Threshold. ThresholdSession clicks."
        )
    return rule


def _above(data: np.ndarray, mask: np.ndarray, rule: ThresholdRule | Threshold) -> np.ndarray:
    highest = float(data[mask].max(initial=-np.inf))
    if isinstance(rule, ThresholdRule) and rule.percent is not None and -np.inf < highest < 0:
        warnings.warn(
            f"{rule}: the largest value of a mask is {highest:.3g}, which is negative, so no voxel reaches a "
            "percentage of it; its SUVs are NaN.",
            DoubtfulValuesWarning,
            stacklevel=4,
        )
    return data >= rule.lowest(highest)


def _peak(volume: Volume, box: Box, in_box: np.ndarray, weights: np.ndarray, peak: str) -> float:
    """Largest mean SUV in a sphere centred on a voxel of the mask; NaN for an empty mask.

    The sphere may reach beyond the mask. Its mean leaves out what lies outside the scan.
    """
    from scipy.signal import fftconvolve

    if not in_box.any():
        return float("nan")
    if peak == "local":
        hottest = np.unravel_index(np.argmax(np.where(in_box, volume.data[box], -np.inf)), in_box.shape)
        box = tuple(slice(one.start + int(at), one.start + int(at) + 1) for one, at in zip(box, hottest, strict=True))
        in_box = np.ones((1, 1, 1), bool)
    # On a scan that is smaller than the sphere, the part of it that some voxel of the box finds inside the scan.
    whole, shape = np.array(weights.shape) // 2, np.array(volume.shape)
    half = np.minimum(whole, [max(one.stop - 1, size - 1 - one.start) for one, size in zip(box, shape, strict=True)])
    weights = weights[tuple(slice(middle - h, middle + h + 1) for middle, h in zip(whole, half, strict=True))]
    # The box widened by the sphere, with zeros outside the scan, so that "valid" gives back the box.
    start = np.array([one.start for one in box]) - half
    stop = np.array([one.stop for one in box]) + half
    before, after = np.maximum(-start, 0), np.maximum(stop - shape, 0)
    outside = tuple(zip(before, after, strict=True))
    wide = volume.data[tuple(slice(*ends) for ends in zip(start + before, stop - after, strict=True))]
    # The sphere is its own mirror image, so convolving is correlating.
    means = fftconvolve(np.pad(wide.astype(float), outside), weights, mode="valid")
    if before.any() or after.any() or (half < whole).any():
        means = means / fftconvolve(np.pad(np.ones(wide.shape), outside), weights, mode="valid")
    return float(means[in_box].max())


def _measure(
    volume: Volume, box: Box, in_box: np.ndarray, weights: np.ndarray, rule: ThresholdRule | Threshold | None, peak: str
) -> list[tuple[str, float, str, str]]:
    """(quantity, value, unit, definition) of one object."""
    values = volume.data[box][in_box].astype(float)
    empty = values.size == 0
    mean = float("nan") if empty else float(values.mean())
    volume_ml = values.size * volume.voxel_volume_ml
    where = "voxels of the mask " + ("as given" if rule is None else f"with {rule.definition}")
    where += note(volume.metadata)
    centre = "any of these voxels" if peak == "global" else "the hottest of these voxels"
    return [
        ("SUVmax", float("nan") if empty else float(values.max()), "g/mL", f"largest SUVbw; {where}"),
        ("SUVmean", mean, "g/mL", f"mean SUVbw; {where}"),
        (
            "SUVpeak", _peak(volume, box, in_box, weights, peak), "g/mL",
            f"largest mean SUVbw of a 1 cm3 sphere (12.4 mm), partial voxels weighted, centred on {centre} ({peak}); "
            f"{where}",
        ),
        ("MTV", volume_ml, "mL", f"metabolic volume: count x voxel volume; {where}"),
        ("TLG", 0.0 if empty else volume_ml * mean, "g", f"total lesion glycolysis: MTV x SUVmean, mL x g/mL; {where}"),
    ]  # fmt: skip


def _as_sul(
    suvs: list[tuple[str, float, str, str]], formula: str, factor: float, lean_kg: float
) -> list[tuple[str, float, str, str]]:
    """The rows of SUVmax, SUVmean and SUVpeak as SULs."""
    how = f"SUL = SUVbw x lean body mass / weight, {formula}'s lean body mass {lean_kg:.2f} kg"
    return [
        (f"{quantity.replace('SUV', 'SUL')}_{formula}", value * factor, unit, f"{definition}; {how}")
        for quantity, value, unit, definition in suvs
    ]


def _objects(volume: Volume, mask: Masks, names: Mapping[int, str] | None) -> list[tuple[str, Box, np.ndarray]]:
    """Name, bounding box, and bool mask inside that box, of each object."""
    from scipy import ndimage

    nothing = (slice(0, 0),) * 3
    if not isinstance(mask, Mapping):
        mask = np.asarray(mask)
        if mask.dtype.kind in "ui":
            _check_shape(volume, mask, "label map")
            mask = check_labels(mask, "label map")
            boxes = dict(enumerate(ndimage.find_objects(mask), start=1))
            if names is None:
                names = {label: f"label {label}" for label, box in boxes.items() if box is not None}
            boxes = {label: boxes.get(label) or nothing for label in names}
            return [(name, boxes[label], mask[boxes[label]] == label) for label, name in names.items()]
        mask = {"mask": mask}
    objects = []
    for name, one in mask.items():
        one = check_mask(volume, one, "mask" if name == "mask" else f"mask {name!r}")
        box = bounding_box(one) or nothing
        objects.append((str(name), box, one[box]))
    return objects


def check_mask(volume: Volume, mask: np.ndarray, what: str) -> np.ndarray:
    """The mask, checked to be bool and to lie on a PET in SUVbw.

    Raises:
        UnitError: `volume` is not in SUVbw.
        VolumeError: The mask is not bool.
        GeometryError: The mask has another shape.
    """
    check_suvbw(volume)
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise VolumeError(
            f"{volume.source}: {what} is {mask.dtype}; expected bool: logits > 0, labels == 3, or "
            "physiological_mask(labels, names). Only quantify takes an integer label map too."
        )
    _check_shape(volume, mask, what)
    return mask


def _check_shape(volume: Volume, mask: np.ndarray, what: str) -> None:
    if mask.shape != volume.shape:
        raise GeometryError(
            f"{what} of shape {mask.shape} does not lie on {volume.source} of shape {volume.shape}. "
            "Resample it onto that grid with nearest-neighbour interpolation."
        )


def check_suvbw(volume: Volume) -> None:
    """Raise UnitError unless `volume` is in SUVbw."""
    if volume.unit != "SUVbw":
        raise UnitError(
            f"{volume.source} is in {volume.unit}; SUVmax, MTV and the rest need SUVbw. Load the DICOM series with "
            "load_dicom, which computes SUVbw, or convert: to_suvbw(volume, weight_kg=..., dose_bq=..., ...)."
        )
