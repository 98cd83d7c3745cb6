"""Simulated clicks: a person who sees the truth and points at the target, then at the largest error.

The simulator sees the truth and the mask it corrects, nothing else. All strategies work inside the bounding box of
what they look at, so that a click on an organ of a whole-body scan costs milliseconds.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from seganypet.errors import ClickError, GeometryError
from seganypet.prompts import Click

FIRST = ("deepest", "random")
THEN = ("largest_error", "random_error")

CONNECTED_26 = np.ones((3, 3, 3), bool)


def first_click(
    truth: np.ndarray,
    strategy: str = "deepest",
    *,
    spacing: Sequence[float],
    rng: np.random.Generator | None = None,
) -> Click:
    """Click on a target that has no mask yet.

    Args:
        truth: True inside the target, shape (I, J, K), bool.
        strategy: "deepest" clicks the voxel farthest (in mm) from the target's background; beyond the border of the
            volume is background, so an organ cut by the field of view is clicked in the middle of what is seen. Of
            equally deep voxels the one nearest to the target's centroid wins. "random": any voxel of the target.
        spacing: Voxel size along (i, j, k), in mm.
        rng: Source of chance; needed by "random".

    Returns:
        A positive click inside the target.

    Raises:
        ClickError: Empty truth, unknown strategy, or "random" without `rng`.
        GeometryError: Truth that is not a 3D bool array; spacing that is not three positive numbers.
    """
    _check_mask(truth, "truth")
    spacing = _check_spacing(spacing)
    _check_strategy(strategy, FIRST, rng)
    box = bounding_box(truth)
    if box is None:
        raise ClickError(
            f"the truth of shape {truth.shape} is empty: there is no target to click. Leave this target out, and count "
            "it."
        )
    ijk = deepest_voxel(truth[box], spacing) if strategy == "deepest" else _random_voxel(truth[box], rng)
    return Click(_shifted(ijk, box), foreground=True)


def next_click(
    truth: np.ndarray,
    mask: np.ndarray,
    strategy: str = "largest_error",
    *,
    spacing: Sequence[float],
    rng: np.random.Generator | None = None,
) -> Click | None:
    """Click where the mask is wrong: positive in a miss, negative in a false alarm.

    Args:
        truth: True inside the target, shape (I, J, K), bool. May be empty: every error is then a false alarm.
        mask: The mask to correct, shape of `truth`, bool.
        strategy: "largest_error" clicks the deepest voxel (as in `first_click`) of the largest error region; regions
            are 26-connected, misses and false alarms apart, and of equally large regions a miss comes first.
            "random_error" clicks any wrong voxel, as the public release does.
        spacing: Voxel size along (i, j, k), in mm.
        rng: Source of chance; needed by "random_error".

    Returns:
        The click, or None if the mask equals the truth.

    Raises:
        ClickError: Unknown strategy, or "random_error" without `rng`.
        GeometryError: Arrays that are not 3D, not bool or differ in shape; bad spacing.
    """
    _check_mask(truth, "truth")
    _check_mask(mask, "mask")
    if mask.shape != truth.shape:
        raise GeometryError(f"mask of shape {mask.shape} and truth of shape {truth.shape} must lie on the same grid.")
    spacing = _check_spacing(spacing)
    _check_strategy(strategy, THEN, rng)
    error = truth ^ mask
    box = bounding_box(error)
    if box is None:
        return None
    error, truth = error[box], truth[box]
    if strategy == "random_error":
        ijk = _random_voxel(error, rng)
    else:
        region, region_box = max(
            (_largest_component(error & truth), _largest_component(error & ~truth)), key=lambda found: found[0].sum()
        )
        ijk = _shifted(deepest_voxel(region, spacing), region_box)
    return Click(_shifted(ijk, box), foreground=bool(truth[ijk]))


def deepest_voxel(region: np.ndarray, spacing: Sequence[float]) -> tuple[int, int, int]:
    """Voxel of a non-empty region farthest from its outside, in mm; outside the array is outside the region.

    Source: exact Euclidean distance transform. Ties go to the voxel nearest to the centroid, then to the first in
    array order, so that a tube is clicked in its middle and not at its end.
    """
    depth_mm = ndimage.distance_transform_edt(np.pad(region, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    # The transform rounds in its last bits: depths that close are equal.
    candidates = np.argwhere(depth_mm >= depth_mm.max() * (1 - 1e-9))
    # Summing over two axes at a time spares a list of all voxels.
    centroid = [
        np.average(np.arange(size), weights=region.sum(axis=tuple({0, 1, 2} - {axis})))
        for axis, size in enumerate(region.shape)
    ]
    distance_mm = np.linalg.norm((candidates - centroid) * np.asarray(spacing), axis=1)
    return tuple(int(index) for index in candidates[np.argmin(np.round(distance_mm, 6))])


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Smallest box that holds every True voxel; None if there is none."""
    plane = mask.any(axis=2)  # the contiguous axis first: the rest is then cheap
    i = np.flatnonzero(plane.any(axis=1))
    if not len(i):
        return None
    j = np.flatnonzero(plane.any(axis=0))
    box = slice(int(i[0]), int(i[-1]) + 1), slice(int(j[0]), int(j[-1]) + 1)
    k = np.flatnonzero(mask[box].any(axis=(0, 1)))
    return *box, slice(int(k[0]), int(k[-1]) + 1)


def _largest_component(region: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
    """The largest 26-connected component, cropped to its box, and that box; all of an empty region."""
    labels, count = ndimage.label(region, CONNECTED_26)
    if count == 0:
        return region, (slice(0, None),) * 3
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    box = ndimage.find_objects(labels, max_label=largest)[largest - 1]
    return labels[box] == largest, box


def _random_voxel(region: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int]:
    chosen = rng.choice(np.flatnonzero(region))
    return tuple(int(index) for index in np.unravel_index(chosen, region.shape))


def _shifted(ijk: Sequence[int], box: Sequence[slice]) -> tuple[int, int, int]:
    return tuple(int(index) + part.start for index, part in zip(ijk, box, strict=True))


def _check_strategy(strategy: str, known: Sequence[str], rng: np.random.Generator | None) -> None:
    if strategy not in known:
        raise ClickError(f"unknown click strategy {strategy!r}; needed is one of {', '.join(known)}.")
    if strategy.startswith("random") and rng is None:
        raise ClickError(f"strategy {strategy!r} needs a source of chance: rng=numpy.random.default_rng(seed).")


def _check_mask(mask: np.ndarray, name: str) -> None:
    if not isinstance(mask, np.ndarray) or mask.ndim != 3 or mask.dtype != bool:
        what = f"{mask.dtype} array of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise GeometryError(
            f"{name} is a {what}; needed is a bool array of shape (I, J, K). Of a label map choose one label first: "
            "organs == 1."
        )


def _check_spacing(spacing: Sequence[float]) -> tuple[float, float, float]:
    sizes = np.asarray(spacing, float)
    if sizes.shape != (3,) or not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise GeometryError(f"spacing={spacing!r}: needed are three positive voxel sizes along (i, j, k), in mm.")
    return tuple(float(size) for size in sizes)
