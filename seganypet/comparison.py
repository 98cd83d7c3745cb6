"""A mask against the truth, and the distances between their surfaces: what `metrics` rests on.

The surface of a mask is its voxels with a face neighbour outside it; beyond the volume is outside. Distances are
between voxel centres, in mm.
"""

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from scipy.spatial import KDTree

from seganypet.errors import GeometryError
from seganypet.regions import Box, bounding_box, box_of, enclosing_box, exact_mm, nearest_mm

NEAR_MM = 30.0  # up to which a tree of surface voxels finds the nearest one fast
VOXELS_PER_NEAR_QUERY = 120  # of an exact one, which a few further masks make up for
VOXELS_PER_QUERY = 300  # of a distance transform, which cost as much as one search of a tree for a distant voxel

T = TypeVar("T")


class Surface:
    """The surface of a mask.

    Args:
        mask: Bool, shape (I, J, K).
        spacing: Voxel size along (i, j, k), in mm.

    Attributes:
        voxels: Indices of its voxels, (n, 3).
    """

    def __init__(self, mask: np.ndarray, spacing: Sequence[float]):
        self.voxels, self.spacing = _surface_voxels(mask), tuple(map(float, spacing))
        self._map: tuple[Box, np.ndarray] | None = None
        self._near_map: np.ndarray | None = None

    def distances_mm(self, voxels: np.ndarray, again: bool = True) -> np.ndarray:
        """Distance of voxels, (m, 3), to the nearest of the surface, (m,); beyond 30 mm to a relative 1e-6.

        A tree of surface voxels answers for near ones; for distant ones it searches long. Where either are many, as on
        the surface of a leak, a distance transform costs less. It is kept: the next mask leaks likewise.

        Args:
            voxels: Indices, (m, 3).
            again: Whether further voxels will be asked for, for which a map of near ones is made.
        """
        if not len(self.voxels):
            return np.full(len(voxels), np.inf)
        distances = self._near_mm(voxels, again)
        is_far = np.isinf(distances)
        far = voxels[is_far]
        if not len(far):
            return distances
        box = enclosing_box([box_of(far), box_of(self.voxels)])
        if self._map is None and len(far) * VOXELS_PER_QUERY < np.prod([part.stop - part.start for part in box]):
            distances[is_far] = self._tree.query(far * self.spacing)[0]
        else:
            start, transform = self._mapped(box)
            distances[is_far] = transform[tuple((far - start).T)]
        return distances

    def _near_mm(self, voxels: np.ndarray, again: bool = True) -> np.ndarray:
        """Exact distances of voxels up to 30 mm away, as `distances_mm`; of others exact, or infinite."""
        margin = np.ceil(NEAR_MM / np.array(self.spacing)).astype(int) + 1
        low, size = self.voxels.min(0) - margin, np.ptp(self.voxels, axis=0) + 2 * margin + 1
        is_within = np.ones(len(voxels), bool)
        for axis in range(3):  # a leak has millions of voxels, and few are near
            is_within &= (voxels[:, axis] >= low[axis]) & (voxels[:, axis] < low[axis] + size[axis])
        near, distances = voxels[is_within], np.full(len(voxels), np.inf)
        are_few = len(near) * VOXELS_PER_NEAR_QUERY < np.prod(size)
        if self._near_map is None and (are_few or not again):
            bound_mm = NEAR_MM if are_few else np.inf  # a map would say how far the distant ones of many are, too
            distances[is_within] = self._tree.query(near * self.spacing, distance_upper_bound=bound_mm)[0]
            return distances
        if self._near_map is None:
            surface = np.zeros(size, bool)
            surface[tuple((self.voxels - low).T)] = True
            self._near_map = exact_mm(surface, self.spacing)
        distances[is_within] = self._near_map[tuple((near - low).T)]
        return distances

    @cached_property
    def _tree(self) -> KDTree:
        return KDTree(self.voxels * self.spacing, balanced_tree=False, compact_nodes=False)  # built twice as fast

    def _mapped(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """First voxel of a box that holds this one, and the distance of each of its voxels to the surface, in mm."""
        if self._map is None or enclosing_box([box, self._map[0]]) != self._map[0]:
            box = enclosing_box([box] if self._map is None else [box, self._map[0]])
            self._map = box, self._transform(box)
        kept, transform = self._map
        return np.array([part.start for part in kept]), transform

    def _transform(self, box: Box) -> np.ndarray:
        # A voxel more on each side, so that each voxel of the surface touches another one.
        surface = np.zeros([part.stop - part.start + 2 for part in box], bool)
        surface[tuple((self.voxels - [part.start - 1 for part in box]).T)] = True
        return nearest_mm(surface, self.spacing)[1:-1, 1:-1, 1:-1]


class Target:
    """What masks are compared with; what depends on the truth alone is computed once, and of equal masks, too.

    Args:
        truth: Bool, shape (I, J, K).
        spacing: Voxel size along (i, j, k), in mm.

    Raises:
        GeometryError: Not a bool array in 3D.
    """

    def __init__(self, truth: np.ndarray, spacing: Sequence[float]):
        check_pair(truth, truth)
        self.truth, self.spacing, self.box = truth, tuple(map(float, spacing)), bounding_box(truth)
        self._known: dict[Hashable, Any] = {}

    @cached_property
    def surface(self) -> Surface:
        """Surface of the truth."""
        return Surface(self.truth, self.spacing)

    def once(self, what: Hashable, find: Callable[[], T]) -> T:
        """What is found under a name, such as that of a mask: only when it is first asked for, and the same later."""
        if what not in self._known:
            self._known[what] = find()
        return self._known[what]


class Comparison:
    """A mask against a target; what several metrics need is computed once.

    Args:
        mask: Bool, shape of the truth.
        target: What it is compared with.

    Attributes:
        mask, truth: Both within the smallest box that holds both.
        spacing: Voxel size along (i, j, k), in mm.

    Raises:
        GeometryError: The mask is not bool, or the shapes differ.
    """

    def __init__(self, mask: np.ndarray, target: Target):
        check_pair(mask, target.truth)
        boxes = [box for box in (bounding_box(mask), target.box) if box is not None]
        box = enclosing_box(boxes) if boxes else (slice(0),) * 3
        self.mask, self.truth, self.spacing = mask[box], target.truth[box], np.array(target.spacing)
        self._whole, self._target = mask, target

    @cached_property
    def surface_distances_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Distance of each surface voxel of the mask to the truth's surface, and of the truth's to the mask's.

        Both are empty if one of the masks is.
        """
        mask, truth = Surface(self._whole, self._target.spacing), self._target.surface
        if not len(mask.voxels) or not len(truth.voxels):
            return np.empty(0), np.empty(0)
        return truth.distances_mm(mask.voxels), mask.distances_mm(truth.voxels, again=False)

    def nsd(self, tolerance_mm: float | None = None) -> float:
        """As `surface_dice`."""
        distances = np.concatenate(self.surface_distances_mm)
        if not distances.size:
            return 0.0 if self.truth.any() else float("nan")
        within = (self.spacing.max() if tolerance_mm is None else tolerance_mm) * (1 + 1e-9)  # products are rounded
        return float(np.count_nonzero(distances <= within) / len(distances))

    def hd95_mm(self) -> float:
        """95 % Hausdorff distance, the larger of the two directions, in mm; NaN if one of the masks is empty.

        Source: MONAI's `compute_hausdorff_distance`, percentile 95, whose numbers it gives.
        """
        found = self.surface_distances_mm
        return max(float(np.percentile(one, 95)) for one in found) if found[0].size else float("nan")

    def assd_mm(self) -> float:
        """Average symmetric surface distance over the voxels of both surfaces, in mm; NaN if one mask is empty.

        Source: MONAI's `compute_average_surface_distance`, symmetric, whose numbers it gives.
        """
        found = np.concatenate(self.surface_distances_mm)
        return float(found.mean()) if found.size else float("nan")


def _surface_voxels(mask: np.ndarray) -> np.ndarray:
    """Indices of the surface of a mask, (n, 3), int32: a leak has millions of voxels."""
    box = bounding_box(mask)
    if box is None:
        return np.empty((0, 3), np.int32)
    inside = mask[box]
    inner = np.zeros_like(inside)
    middle = inner[1:-1, 1:-1, 1:-1]
    middle[:] = inside[1:-1, 1:-1, 1:-1]
    for axis in range(3):  # as binary_erosion, and eight times as fast
        for side in (slice(None, -2), slice(2, None)):
            middle &= inside[tuple(side if other == axis else slice(1, -1) for other in range(3))]
    voxels = np.argwhere(inside & ~inner).astype(np.int32)
    voxels += np.array([part.start for part in box], np.int32)
    return voxels


def check_pair(mask: np.ndarray, truth: np.ndarray) -> None:
    """Raise GeometryError unless both are bool arrays in 3D, of one shape."""
    if mask.shape != truth.shape or mask.ndim != 3:
        raise GeometryError(f"mask of shape {mask.shape}, truth of shape {truth.shape}; expected 3D on the same grid.")
    if mask.dtype != bool or truth.dtype != bool:
        raise GeometryError(
            f"mask is {mask.dtype}, truth is {truth.dtype}; expected bool. Threshold logits (> 0) and choose one label "
            "of a label map (organs == 1) first."
        )
