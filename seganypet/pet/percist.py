"""PERCIST: a reference in liver or blood pool, the threshold that follows from it, and the measurable lesions.

    reference = liver_reference(pet, liver, exclude=lesions > 0)
    measurable_lesions(pet, lesions, reference)       # SULpeak of every lesion against the threshold
    quantify(pet, lesions, threshold=reference.rule)  # masks narrowed to the voxels that reach it

From Wahl et al., J Nucl Med 2009 (PERCIST 1.0; explained by O and Wahl, Radiology 2016): both thresholds, size and
organ of both reference regions, comparison by SULpeak, the hottest lesion as target. This package's own choices: the
default position of a region, and the distance of one voxel from lesions. PERCIST is for FDG.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from seganypet.errors import GeometryError, VolumeError
from seganypet.pet.quantification import Masks, Threshold, check_mask, quantify, sul_factor
from seganypet.pet.volume import Point, Volume
from seganypet.regions import CONNECTED_26, Box, bounding_box, depth_mm

if TYPE_CHECKING:
    import pandas

# Maps x, y and z, in mm from a centre, to whether they lie inside.
Shape = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

SPHERE_RADIUS_MM = 15.0
CYLINDER_RADIUS_MM = 5.0
CYLINDER_HALF_LENGTH_MM = 10.0
# Mean SUVbw of such a sphere that the EANM's FDG guideline expects, as cited in doi 10.1007/s00259-022-05977-5; outside
# this range, weight, injected activity or scanner may be wrong.
LIVER_SUVBW = (1.3, 3.0)
# Range below the top of an adult's aorta: under the arch, where ascending and descending part are separate.
DESCENDING_MM = (50.0, 160.0)


@dataclass(frozen=True, eq=False)
class Reference:
    """Healthy tissue of one scan, against which its lesions are measured.

    Attributes:
        tissue: "liver" or "blood pool".
        centre_mm: Centre of the sphere or cylinder, RAS+.
        mask: Its voxels (those whose centre is inside), bool, shape of the volume.
        mean: Mean SUL of these voxels, g/mL.
        sd: Standard deviation of their SUL (divisor n - 1), g/mL.
        threshold: SUL that a lesion's SULpeak must reach, g/mL.
        formula: Formula of lean body mass.
        sul_per_suvbw: SUL / SUVbw of the patient.
        source: Source of the volume.
        text: Derivation of the threshold, in words.
        warning: Doubts about the reference; "" if there are none.
    """

    tissue: str
    centre_mm: Point
    mask: np.ndarray = field(repr=False)
    mean: float
    sd: float
    threshold: float
    formula: str
    sul_per_suvbw: float
    source: str
    text: str
    warning: str

    @property
    def rule(self) -> Threshold:
        """The threshold as SUVbw, for `quantify` and `threshold_mask`."""
        return Threshold(self.threshold / self.sul_per_suvbw, self.text)


def liver_reference(
    volume: Volume,
    liver: np.ndarray,
    *,
    formula: str = "janmahasatian",
    exclude: np.ndarray | None = None,
    centre_ijk: Sequence[float] | None = None,
    drawn_by: str = "",
) -> Reference:
    """A sphere of 3 cm diameter in the liver's right lobe; threshold 1.5 x mean + 2 SD.

    Args:
        volume: PET in SUVbw, shape (I, J, K), with weight_kg, height_m and sex in its metadata.
        liver: Bool, shape (I, J, K).
        formula: Formula of lean body mass: "janmahasatian" or "james".
        exclude: Mask of lesions, bool, shape (I, J, K). At least one voxel separates them from the sphere.
        centre_ijk: Centre of the sphere. Default: the deepest voxel, in mm, of the healthy liver to the patient's
            right of the liver's centre of mass; the whole sphere lies right of it.
        drawn_by: What drew the mask, if nobody did, such as `Proposal.proposed_by`; said in the reference's text, and
            so in each table made with it.

    Raises:
        UnitError, SUVError: As `quantify` with SUL.
        GeometryError: A mask has another shape; the centre lies outside the volume.
        VolumeError: A mask is not bool, or empty; the sphere is not entirely in healthy liver.

    Source: Wahl et al., J Nucl Med 2009.
    """
    centre_mm, sphere, warnings = liver_sphere(volume, liver, exclude=exclude, centre_ijk=centre_ijk)
    shape = "a sphere of 3 cm diameter in the right lobe of the liver"
    return _reference(volume, "liver", shape, centre_mm, sphere, formula, 1.5, warnings, drawn_by)


def liver_sphere(
    volume: Volume, liver: np.ndarray, *, exclude: np.ndarray | None = None, centre_ijk: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The sphere of `liver_reference` alone, for which nothing of the patient need be known.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        liver, exclude, centre_ijk: As for `liver_reference`.

    Returns:
        Its centre, RAS+ mm; its voxels, bool, shape (I, J, K); doubts about it, in sentences.

    Raises:
        GeometryError, VolumeError: As `liver_reference`.
    """
    healthy, box = _healthy(volume, liver, exclude, "liver")
    middle_mm = volume.to_mm(np.argwhere(liver).mean(axis=0))
    warnings = []
    if centre_ijk is None:
        right = _axis_mm(volume, box, 0) > middle_mm[0]
        depth = depth_mm(healthy[box] & right, volume.spacing)
        centre_ijk = np.unravel_index(depth.argmax(), depth.shape) + _corner(box)
        how = f"at the deepest position right of the liver's centre of mass, {depth.max():.1f} mm deep,"
    else:
        how = "at the given centre"
        if _checked_mm(volume, centre_ijk)[0] <= middle_mm[0]:
            warnings.append("The given centre lies left of the liver's centre of mass: is it in the right lobe?")
    centre_mm = volume.to_mm(centre_ijk)
    way_out = "Give another centre_ijk, or use the blood pool: blood_pool_reference(volume, aorta)."
    sphere = _fitting(volume, centre_mm, _in_sphere, healthy, f"the 3 cm sphere {how}", "healthy liver", way_out)
    mean_suvbw = float(volume.data[sphere].mean(dtype=float))
    if not LIVER_SUVBW[0] <= mean_suvbw <= LIVER_SUVBW[1]:
        warnings.append(
            f"The sphere's mean SUVbw is {mean_suvbw:.2f}; the EANM's guideline expects {LIVER_SUVBW[0]} to "
            f"{LIVER_SUVBW[1]} in a liver. Check unit, tracer, injection and uptake time, and the liver."
        )
    return centre_mm, sphere, warnings


def blood_pool_reference(
    volume: Volume,
    aorta: np.ndarray,
    *,
    formula: str = "janmahasatian",
    exclude: np.ndarray | None = None,
    centre_ijk: Sequence[float] | None = None,
    drawn_by: str = "",
) -> Reference:
    """A cylinder of 1 cm diameter and 2 cm length, along z, in the descending aorta; threshold 2 x mean + 2 SD.

    PERCIST uses it in place of the liver where the liver is diseased.

    Args:
        volume: As for `liver_reference`.
        aorta: Bool, shape (I, J, K).
        formula: Formula of lean body mass: "janmahasatian" or "james".
        exclude: As for `liver_reference`.
        centre_ijk: Centre of the cylinder. Default: the deepest position, 5 to 16 cm below the top of the aorta, in the
            hindmost piece that holds the cylinder (ascending and descending part are separate pieces there). This
            suits adults whose arch is in the mask; otherwise give the centre.
        drawn_by: As for `liver_reference`.

    Raises:
        UnitError, SUVError: As `quantify` with SUL.
        GeometryError: A mask has another shape; the centre lies outside the volume.
        VolumeError: A mask is not bool, or empty; the cylinder is not entirely in the aorta.

    Source: Wahl et al., J Nucl Med 2009.
    """
    healthy, box = _healthy(volume, aorta, exclude, "aorta")
    warnings = []
    if centre_ijk is None:
        centre_ijk = _descending(volume, healthy, box)
        how = "in the descending part"
        ijk = np.argwhere(aorta)
        top = ijk[volume.to_mm(ijk)[:, 2].argmax()]
        if (top == 0).any() or (top == np.array(volume.shape) - 1).any():
            warnings.append("The aorta's top lies at the edge of the scan: its arch may be missing, see centre_ijk.")
    else:
        _checked_mm(volume, centre_ijk)
        how = "at the given centre"
    centre_mm = volume.to_mm(centre_ijk)
    way_out = "Give another centre_ijk."
    cylinder = _fitting(volume, centre_mm, _in_cylinder, healthy, f"the cylinder {how}", "healthy aorta", way_out)
    shape = "a cylinder of 1 cm x 2 cm in the descending aorta"
    return _reference(volume, "blood pool", shape, centre_mm, cylinder, formula, 2.0, warnings, drawn_by)


def measurable_lesions(
    volume: Volume, lesions: Masks, reference: Reference, *, names: Mapping[int, str] | None = None
) -> "pandas.DataFrame":
    """Which lesions PERCIST can measure, and which is the target.

    Args:
        volume: The scan of `reference`.
        lesions: Bool mask, label map, or bool masks by name, as for `quantify`. Labels stand for single lesions: two
            lesions with one label count as one.
        reference: Reference from the same scan.
        names: Names of the labels, as for `quantify`.

    Returns:
        One row per lesion: object, SULpeak (NaN if empty), threshold, measurable (SULpeak >= threshold), target (True
        for the hottest measurable lesion), unit, definition, source.

    Raises:
        VolumeError: `reference` comes from another scan; otherwise as `quantify`.

    Source: Wahl et al., J Nucl Med 2009; SULpeak as `quantify`'s "global" one.
    """
    same = (reference.source, reference.mask.shape) == (volume.source, volume.shape)
    if not same or not np.isclose(reference.sul_per_suvbw, sul_factor(volume, reference.formula)):
        raise VolumeError(
            f"the reference was taken from {reference.source}, shape {reference.mask.shape}; the lesions lie on "
            f"{volume.source}, shape {volume.shape}. Every scan needs a reference of its own."
        )
    table = quantify(volume, lesions, names=names, sul=reference.formula)
    table = table[table["quantity"] == f"SULpeak_{reference.formula}"].reset_index(drop=True)
    table = table.rename(columns={"value": "SULpeak"}).drop(columns="quantity")
    table.insert(2, "threshold", reference.threshold)
    table.insert(3, "measurable", table["SULpeak"] >= reference.threshold)
    hottest = table["SULpeak"].where(table["measurable"]).max()
    table.insert(4, "target", table["measurable"] & (table["SULpeak"] == hottest) & ~table["SULpeak"].duplicated())
    table["definition"] += f"; measurable from the {reference.text}"
    return table


measurability = measurable_lesions  # its name in older notebooks


def _healthy(volume: Volume, organ: np.ndarray, exclude: np.ndarray | None, name: str) -> tuple[np.ndarray, Box]:
    """The organ without lesions and the voxels next to them, and the bounding box of the organ."""
    organ = check_mask(volume, organ, f"{name} mask")
    box = bounding_box(organ)
    if box is None:
        raise VolumeError(f"{volume.source}: the {name} mask is empty; expected a mask of the {name}.")
    if exclude is not None:
        lesions = check_mask(volume, exclude, "exclude")
        organ = organ & ~ndimage.binary_dilation(lesions, CONNECTED_26)
    return organ, box


def _descending(volume: Volume, healthy: np.ndarray, box: Box) -> np.ndarray:
    """Voxel in the descending aorta around which the cylinder fits, see `blood_pool_reference`."""
    z_mm = _axis_mm(volume, box, 2)
    below_top_mm = z_mm[healthy[box]].max(initial=-np.inf) - z_mm
    pieces, number = ndimage.label(
        healthy[box] & (below_top_mm >= DESCENDING_MM[0]) & (below_top_mm <= DESCENDING_MM[1])
    )
    around = _voxels(volume, volume.to_mm((0, 0, 0)), _in_cylinder)
    structure = np.zeros(2 * np.abs(around).max(axis=0) + 1, bool)
    structure[tuple((around + np.abs(around).max(axis=0)).T)] = True
    y_mm = _axis_mm(volume, box, 1)
    centres = {}  # mean y of a piece, in mm -> its deepest voxel
    for piece in range(1, number + 1):
        inside = pieces == piece
        fits = ndimage.binary_erosion(inside, structure)
        if fits.any():
            depth = np.where(fits, depth_mm(inside, volume.spacing), 0.0)
            centres[y_mm[inside].mean()] = np.array(np.unravel_index(depth.argmax(), depth.shape))
    if not centres:
        raise VolumeError(
            f"{volume.source}: no cylinder of 1 cm x 2 cm fits into the aorta {DESCENDING_MM[0]:g} to "
            f"{DESCENDING_MM[1]:g} mm below its top. Give centre_ijk, a voxel in the descending aorta."
        )
    return centres[min(centres)] + _corner(box)


def _reference(
    volume: Volume,
    tissue: str,
    shape: str,
    centre_mm: np.ndarray,
    mask: np.ndarray,
    formula: str,
    times: float,
    warnings: list[str],
    drawn_by: str,
) -> Reference:
    factor = sul_factor(volume, formula)
    sul = volume.data[mask].astype(float) * factor
    mean, sd = float(sul.mean()), float(sul.std(ddof=1))
    threshold = times * mean + 2.0 * sd
    x, y, z = (float(one) for one in centre_mm)
    text = (
        f"PERCIST threshold SUL {threshold:.3g} = {times:g} x mean {mean:.3g} + 2 x SD {sd:.3g} of {shape}, {sul.size} "
        f"voxels around RAS+ ({x:.1f}, {y:.1f}, {z:.1f}) mm, {formula}'s lean body mass"
    ) + (f", in an organ {drawn_by}" if drawn_by else "")
    return Reference(
        tissue, (x, y, z), mask, mean, sd, threshold, formula, factor, volume.source, text, " ".join(warnings)
    )


def _fitting(
    volume: Volume, centre_mm: np.ndarray, inside: Shape, healthy: np.ndarray, what: str, where: str, way_out: str
) -> np.ndarray:
    """Mask of a shape; VolumeError unless it lies entirely in healthy tissue."""
    ijk = _voxels(volume, centre_mm, inside)
    in_scan = np.all((ijk >= 0) & (ijk < volume.shape), axis=1)
    fits = in_scan.copy()
    fits[in_scan] = healthy[tuple(ijk[in_scan].T)]
    if len(ijk) < 2:
        raise VolumeError(
            f"{volume.source}: {what} holds {len(ijk)} voxel of this coarse grid; expected at least 2 for an SD. Use "
            "the scan on its original grid."
        )
    if not fits.all():
        raise VolumeError(
            f"{volume.source}: {what} is not entirely in {where}: {(~fits).sum()} of its {len(ijk)} voxels are not. "
            f"{way_out}"
        )
    mask = np.zeros(volume.shape, bool)
    mask[tuple(ijk.T)] = True
    return mask


def _in_sphere(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return x**2 + y**2 + z**2 <= SPHERE_RADIUS_MM**2


def _in_cylinder(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return (x**2 + y**2 <= CYLINDER_RADIUS_MM**2) & (np.abs(z) <= CYLINDER_HALF_LENGTH_MM)


def _voxels(volume: Volume, centre_mm: np.ndarray, inside: Shape) -> np.ndarray:
    """Voxels whose centre lies in a shape around a point, (N, 3), including those beyond the scan."""
    # Both shapes fit into the sphere. This is its half-extent along each voxel axis, for sheared grids too.
    reach = np.linalg.norm(np.linalg.inv(volume.affine[:3, :3]), axis=1) * SPHERE_RADIUS_MM
    centre_ijk = volume.to_ijk(centre_mm)
    low, high = np.floor(centre_ijk - reach).astype(int), np.ceil(centre_ijk + reach).astype(int)
    ijk = np.stack(np.meshgrid(*map(np.arange, low, high + 1), indexing="ij"), axis=-1).reshape(-1, 3)
    return ijk[inside(*(volume.to_mm(ijk) - centre_mm).T)]


def _axis_mm(volume: Volume, box: Box, axis: int) -> np.ndarray:
    """x, y or z (axis 0, 1, 2) of every voxel in a box, in mm, shape of the box."""
    i, j, k = np.ogrid[box]
    row = volume.affine[axis]
    return row[0] * i + row[1] * j + row[2] * k + row[3]


def _corner(box: Box) -> np.ndarray:
    return np.array([one.start for one in box])


def _checked_mm(volume: Volume, centre_ijk: Sequence[float]) -> np.ndarray:
    """The centre in mm; GeometryError unless it lies in the volume."""
    if np.shape(centre_ijk) != (3,) or not volume.contains_ijk(centre_ijk):
        raise GeometryError(
            f"centre_ijk={tuple(np.ravel(centre_ijk).tolist())} does not lie in {volume.source} of shape "
            f"{volume.shape}. If it is in mm, convert it with volume.to_ijk(mm)."
        )
    return volume.to_mm(centre_ijk)
