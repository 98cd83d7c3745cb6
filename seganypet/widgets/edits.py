"""What hands do to a mask: brush and eraser, spheres, holes filled, all but the largest piece dropped."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from seganypet.errors import ClickError
from seganypet.pet.volume import Volume
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.prompt import Prompt, Voxel, voxels_on
from seganypet.prompting.random_walker import box_around, distance_mm, within
from seganypet.prompting.shapes import joined
from seganypet.regions import CONNECTED_26, bounding_box

MAX_RADIUS_MM = 100.0
SPHERE = "sphere of"  # how what drew one is named in journals
SPHERES_MM = (12.4, 30.0)  # diameters to choose from: 1 cm3, as of an SUVpeak, and that of PERCIST's liver


def painted(
    mask: np.ndarray, volume: Volume, path_ijk: Sequence[Voxel], axis: int, radius_mm: float, foreground: bool
) -> np.ndarray:
    """A mask after a stroke of a round brush, or eraser, in one slice.

    Args:
        mask: Bool, shape (I, J, K); stays as it is.
        volume: The volume that it lies on.
        path_ijk: Voxels of the stroke, joined by straight lines; all in one slice.
        axis: Axis of the array that is perpendicular to that slice.
        radius_mm: Radius of the brush, in mm; the voxels of the stroke are painted however small it is.
        foreground: False: an eraser.

    Raises:
        ClickError: A voxel outside the volume, a stroke through several slices, or an impossible radius or axis.
    """
    path = joined(voxels_on(volume, "stroke", path_ijk))
    if axis not in (0, 1, 2) or np.ptp(path[:, axis]):
        raise ClickError(f"a stroke across axis {axis} of {volume.source}; expected voxels of one slice, axis 0 to 2.")
    if not 0 <= radius_mm <= MAX_RADIUS_MM:
        raise ClickError(f"radius_mm={radius_mm!r}; expected 0 to {MAX_RADIUS_MM:g} mm.")
    spacing = np.delete(volume.spacing, axis)
    flat = np.delete(path, axis, axis=1)
    reach = np.ceil(radius_mm / spacing).astype(int)
    changed = mask.copy()
    plane = np.moveaxis(changed, axis, 0)[path[0, axis]]  # a view
    low = np.maximum(flat.min(0) - reach, 0)
    part = plane[tuple(slice(a, b) for a, b in zip(low, flat.max(0) + reach + 1, strict=True))]
    beside = np.ones(part.shape, bool)
    beside[tuple((flat - low).T)] = False
    part[ndimage.distance_transform_edt(beside, sampling=spacing) <= radius_mm] = foreground
    return changed


def ball(volume: Volume, ijk: Sequence[int], diameter_mm: float) -> np.ndarray:
    """The voxels of a volume whose centres lie in a sphere around one of them, bool, shape (I, J, K).

    Raises:
        ClickError: A voxel outside the volume, or a diameter that is not above 0 and at most twice `MAX_RADIUS_MM`.
    """
    voxel = volume.check_voxel(ijk)
    if not 0 < diameter_mm <= 2 * MAX_RADIUS_MM:
        raise ClickError(f"diameter_mm={diameter_mm!r}; expected above 0 and at most {2 * MAX_RADIUS_MM:g} mm.")
    box = box_around(volume, [voxel], diameter_mm / 2)
    mask = np.zeros(volume.shape, bool)
    away_mm = distance_mm(mask[box].shape, within(voxel, box), volume.affine[:3, :3])
    mask[box] = away_mm <= diameter_mm / 2
    return mask


def without_holes(mask: np.ndarray) -> np.ndarray:
    """A mask with what it encloses."""
    filled, box = mask.copy(), bounding_box(mask)
    if box is not None:
        filled[box] = ndimage.binary_fill_holes(mask[box])
    return filled


def is_sphere(prompts: Sequence[Prompt]) -> bool:
    """Whether an object of these prompts began as a sphere that measures."""
    return bool(prompts) and isinstance(prompts[0], InitialMask) and prompts[0].drawn_by.startswith(SPHERE)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest 26-connected piece of a mask."""
    largest, box = np.zeros_like(mask), bounding_box(mask)
    if box is not None:
        pieces, _ = ndimage.label(mask[box], CONNECTED_26)
        largest[box] = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return largest
