"""Organ shapes of real bodies, lent to phantoms.

A donor is a label map of somebody's organs. A shape is kept as a level, the signed distance to its surface, as every
shape of a phantom is (`canvas`). It is turned, stretched, bent, made as large as the patient's organ, and put where
that one would lie; what is painted later covers it, and what it is painted over gives way, as for a drawn one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seganypet.errors import SegAnyPETError, warn_caller
from seganypet.phantom.canvas import Box, Canvas, smooth_field
from seganypet.regions import bounding_box

LENDABLE = ("liver", "spleen", "kidney_left", "kidney_right", "bladder", "prostate")  # of one tissue, or nearly so
LENT = 0.5  # of the organs that donors have; the others stay as drawn
TURN_DEGREES = 6.0  # standard deviation about each axis
STRETCH = 0.06  # standard deviation of the logarithm along each axis
MOST_TILTED_DEGREES = 20.0
BEND_MM, BEND_STEP_MM = 2.0, 40.0
_MARGIN_MM = 12.0  # around an organ, within which its level is kept
_MIN_VOXELS = 64


@dataclass(frozen=True, eq=False)
class Shape:
    """One organ of a donor, about its centre of mass.

    Attributes:
        level_mm: Distance to its surface, negative inside, (I, J, K) float32; axes to the right, the front, the head.
        spacing_mm: Voxel size along (i, j, k).
        centre_ijk: Centre of mass, in voxels.
        volume_ml: Its volume.
    """

    level_mm: np.ndarray
    spacing_mm: np.ndarray
    centre_ijk: np.ndarray
    volume_ml: float


@dataclass(frozen=True, eq=False)
class Donor:
    """A body whose organs phantoms may have.

    Attributes:
        name: What it is called in the metadata of phantoms.
        shapes: Organ -> its shape.
    """

    name: str
    shapes: Mapping[str, Shape]

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, affine: np.ndarray, numbers: Mapping[str, Sequence[int]], name: str
    ) -> "Donor":
        """A donor from a label map; an organ that the edge of the map cuts is not lent.

        Args:
            labels: Label map, (I, J, K).
            affine: From voxel indices to RAS+ mm, (4, 4); axes within 20 degrees of the patient's, in any order.
            numbers: Organ, one of ORGANS, -> its labels. Those that are not LENDABLE are left out.
            name: What the donor is called.

        Raises:
            SegAnyPETError: The map is tilted, or has no whole organ that can be lent.

        Warns:
            UserWarning: Some of the stated organs that could be lent are missing in the map, or cut by its edge.
        """
        from nibabel import orientations

        to_ras = orientations.io_orientation(affine)
        turned = orientations.apply_orientation(labels, to_ras)
        axes = affine[:3, :3] @ orientations.inv_ornt_aff(to_ras, labels.shape)[:3, :3]
        spacing = np.linalg.norm(axes, axis=0)
        if (np.diag(axes) / spacing).min() < np.cos(np.radians(MOST_TILTED_DEGREES)):
            tilt = f"tilted by more than {MOST_TILTED_DEGREES:g} degrees"
            raise SegAnyPETError(f"donor {name}: the label map is {tilt}; resample it upright.")
        shapes = {}
        for organ in LENDABLE:
            mask = np.isin(turned, numbers.get(organ, ()))
            if np.count_nonzero(mask) >= _MIN_VOXELS and not _touches_edge(mask):
                shapes[organ] = _shape(mask, spacing)
        if not shapes:
            raise SegAnyPETError(
                f"donor {name}: none of {', '.join(LENDABLE)} lies whole in the label map, of {sorted(numbers)} stated."
            )
        if left_out := sorted(organ for organ in LENDABLE if organ in numbers and organ not in shapes):
            warn_caller(
                f"donor {name} lends no {', '.join(left_out)}: stated, but not in the label map, or cut by its edge."
            )
        return cls(name, shapes)


class Lending:
    """What one phantom borrows.

    Args:
        donors: Bodies to borrow from; none: every organ stays as drawn, and nothing is drawn at random.
        rng: Source of random numbers, of its own.

    Attributes:
        lent: Organ -> name of its donor.
    """

    def __init__(self, donors: Sequence[Donor], rng: np.random.Generator):
        self.donors, self.rng = donors, rng
        self.lent: dict[str, str] = {}

    def __call__(self, canvas: Canvas, organ: str | None, box: Box, level: np.ndarray) -> tuple[Box, np.ndarray]:
        """Box and level of a donor's organ, where the drawn one lies and as large; or the drawn one.

        An organ that the grid cuts stays as drawn: nobody knows its size.

        Args:
            canvas: Where it will be painted.
            organ: Name of the organ.
            box: Box of the drawn organ.
            level: Its level there.
        """
        donors = [donor for donor in self.donors if organ in donor.shapes]
        if not donors or self.rng.random() >= LENT:
            return box, level
        donor = donors[self.rng.integers(len(donors))]
        inside = level < 0
        if not inside.any() or _is_cut(canvas, box, inside):
            return box, level
        axes = canvas.axes(box)
        centre = np.array([float(a[i].mean()) for a, i in zip(axes, np.nonzero(inside), strict=True)])
        voxel_ml = float(np.prod([a[1] - a[0] for a in axes])) / 1000
        self.lent[str(organ)] = donor.name
        return _placed(canvas, donor.shapes[str(organ)], centre, np.count_nonzero(inside) * voxel_ml, self.rng)


def _placed(
    canvas: Canvas, shape: Shape, centre: np.ndarray, volume_ml: float, rng: np.random.Generator
) -> tuple[Box, np.ndarray]:
    """Box and level of a shape at a centre (mm), of a volume: turned, stretched and bent."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    stretch = rng.normal(0, STRETCH, 3)
    scale = (volume_ml / shape.volume_ml) ** (1 / 3) * np.exp(stretch - stretch.mean())
    turn = Rotation.from_euler("xyz", rng.normal(0, TURN_DEGREES, 3), degrees=True).as_matrix()
    to_mm = turn @ np.diag(scale * shape.spacing_mm)  # from voxels of the shape, about its centre
    size = np.array(shape.level_mm.shape)
    corners = np.stack(np.meshgrid(*[(0, count - 1) for count in size], indexing="ij"), -1).reshape(-1, 3)
    reach = (corners - shape.centre_ijk) @ to_mm.T + centre
    box = canvas.box(reach.min(0), reach.max(0))
    positions = np.stack(np.broadcast_arrays(*canvas.mesh(box))) - centre[:, None, None, None]
    ijk = np.einsum("ab,bxyz->axyz", np.linalg.inv(to_mm), positions) + shape.centre_ijk[:, None, None, None]
    level = ndimage.map_coordinates(shape.level_mm, ijk, order=1, mode="constant", cval=_MARGIN_MM)
    level = level * np.float32(scale.mean())
    level += BEND_MM * smooth_field(rng, canvas.axes(box), reach.min(0), reach.max(0), BEND_STEP_MM)
    return box, level.astype(np.float32)


def _shape(mask: np.ndarray, spacing_mm: np.ndarray) -> Shape:
    """Level of a mask in its box and a margin."""
    from scipy import ndimage

    margin = np.ceil(_MARGIN_MM / spacing_mm).astype(int)
    within = np.pad(mask[bounding_box(mask)], [(int(m), int(m)) for m in margin])
    outside, inside = (ndimage.distance_transform_edt(part, sampling=spacing_mm) for part in (~within, within))
    half = spacing_mm.min() / 2
    level = np.where(within, half - inside, outside - half).astype(np.float32)
    centre = np.array(ndimage.center_of_mass(within))
    return Shape(level, spacing_mm, centre, float(within.sum() * np.prod(spacing_mm) / 1000))


def _touches_edge(mask: np.ndarray) -> bool:
    return any(bool(np.take(mask, [0, -1], axis).any()) for axis in range(3))


def _is_cut(canvas: Canvas, box: Box, inside: np.ndarray) -> bool:
    """Whether the grid ends within what lies inside."""
    for axis, (part, count) in enumerate(zip(box, canvas.labels.shape, strict=True)):
        ends = [end for end, at_edge in ((0, part.start == 0), (-1, part.stop == count)) if at_edge]
        if ends and np.take(inside, ends, axis).any():
            return True
    return False
