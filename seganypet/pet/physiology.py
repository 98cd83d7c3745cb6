"""Physiological FDG uptake, the classic false positive: which organs are hot in health, and masks without them.

    organs = physiological_mask(case.anatomy, case.anatomy_names)
    without_physiology(pet, pet.data >= 4, organs)  # a threshold's mask without brain, bladder, kidneys and heart
    organs = physiology_from_clicks(pet, clicks)    # for a scan without organ labels: one click on each organ

Subtracting an organ's mask leaves a rim, because limited resolution spills activity over the organ's border; dilating
the mask first removes lesions that touch the organ. Therefore each voxel is assigned to its own peak, see
`without_physiology`. This rule and its constants are this package's own, chosen on phantoms.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from numbers import Real

import numpy as np
from scipy import ndimage

from seganypet.errors import SegAnyPETError, VolumeError
from seganypet.pet.image_file import check_labels
from seganypet.pet.quantification import check_mask, check_suvbw
from seganypet.pet.volume import Volume
from seganypet.regions import CONNECTED_26, Box, box_within, connected_pieces, widen_box

# Names in three vocabularies: tissues of phantoms (`PhantomCase.anatomy_names`), `ORGANS`, and TotalSegmentator's.
# Only phantoms name the ureters.
HOT_ORGANS = (
    "brain_grey", "brain_white", "cerebellum", "brain",  # burns glucose at all times; the white matter lies between
    "bladder", "urinary_bladder", "ureter",  # collect the tracer that the kidneys excrete
    "kidney_left", "kidney_right", "kidney_left_cortex", "kidney_right_cortex",  # filter the tracer out of the blood
    "kidney_left_pelvis", "kidney_right_pelvis",  # and gather it in urine
    "heart", "myocardium",  # a muscle that burns glucose unless fasting has taught it fat
    "heart_blood",  # blood within that muscle: its own activity is low, what spills into it is not
)  # fmt: skip

# Chosen on phantoms 400 to 407 (internal; lymphoma, melanoma, disseminated).
SMOOTHING_MM = 2.0  # sigma; finer than any PET's resolution: neighbours stay separate, and noise makes few peaks
MERGE = 0.9  # saddle over lower peak: a dip of a tenth may be noise
NEAR_MM = 5.0  # about a voxel of the internal phantoms, 4.07 mm
RIM_MM = 10.0  # 1.5 times a resolution of 7 mm (FWHM), beyond which no spill-over remains
CLICKED = 0.5  # fraction of a clicked peak: 0.41 includes lesions beside organs, 0.6 misses parts of the brain

# Half of the 26 neighbours; the others are their opposites.
_STEPS = np.array([step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)])


def physiological_mask(
    labels: np.ndarray, names: Mapping[int, str], organs: str | Sequence[str] = HOT_ORGANS
) -> np.ndarray:
    """Mask of the organs that are hot in health.

    Args:
        labels: Label map, integers, shape (I, J, K).
        names: Name of each label.
        organs: Names of the hot organs. Others can be hot and may be added: liver, spleen, bowel, stomach, glands,
            pharynx, thyroid; lesions in them then count as physiological too.

    Returns:
        Bool, shape (I, J, K). Organs that the map does not name are missing: the twelve `ORGANS`, which
        `read_totalsegmentator` also returns, include neither brain nor bladder.

    Raises:
        SegAnyPETError: `names` has none of `organs`.
        VolumeError: `labels` is not a label map.

    >>> labels = np.array([[[0, 5, 90]]])
    >>> physiological_mask(labels, {5: "liver", 90: "brain"}).tolist()
    [[[False, False, True]]]
    """
    labels = check_labels(np.asarray(labels), "labels")
    organs = (organs,) if isinstance(organs, str) else tuple(organs)
    wanted = [label for label, name in names.items() if name in organs]
    if not wanted:
        raise SegAnyPETError(
            f"the label map names {', '.join(map(str, names.values())) or 'nothing'}; expected at least one of "
            f"{', '.join(organs)}. Give the hot organs by the names in your map: organs=('my_bladder', ...)."
        )
    return np.isin(labels, wanted)


def without_physiology(volume: Volume, mask: np.ndarray, physiology: np.ndarray, rim_mm: float = RIM_MM) -> np.ndarray:
    """A mask without hot organs: neither their voxels nor the spill-over around them.

    The mask is divided into hot spots by its peaks, see `hot_spots`. A hot spot belongs to an organ if its peak lies
    in `physiology` or within 5 mm of it, or if more than half of its voxels lie in `physiology`. Such a spot is
    removed up to `rim_mm` from the organ; spill-over reaches no farther, so the rest is something else. Voxels in
    `physiology` are always removed. A lesion that touches an organ remains if it has a peak of its own; one that
    drowns in the spill-over of a full bladder has none and is lost, except beyond `rim_mm`.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        mask: Mask from a threshold or a network, bool, shape (I, J, K).
        physiology: Mask of hot organs, as from `physiological_mask`, bool, shape (I, J, K).
        rim_mm: Reach of the spill-over, in mm. Increase it by the displacement between organs and PET where the organs
            come from a CT in another breathing state.

    Returns:
        Part of `mask`, bool, shape (I, J, K).

    Raises:
        UnitError: `volume` is not in SUVbw.
        GeometryError: A mask has another shape.
        VolumeError: A mask is not bool; `physiology` is empty; `rim_mm` is negative or not a number.
    """
    mask, physiology = check_mask(volume, mask, "mask"), check_mask(volume, physiology, "physiology")
    if not physiology.any():
        raise VolumeError(
            f"{volume.source}: physiology is empty, so there is nothing to remove. Do the labels lie on this scan, "
            "and is a hot organ in its field of view? If there is none, use the mask as it is."
        )
    check_nonnegative("rim_mm", rim_mm)
    kept = mask & ~physiology
    # Organs are searched too, so that a rim finds its peak where the mask does not include the organ.
    for box, inside in connected_pieces(mask | physiology):
        wide, inner = _widened(volume, box, max(rim_mm, NEAR_MM))
        masked = mask[box][inside]  # per voxel, (N,), as are away_mm and spot
        if not masked.any() or not physiology[wide].any():
            continue
        away_mm = ndimage.distance_transform_edt(~physiology[wide], sampling=volume.spacing)[inner][inside]
        spot, top = _spots(volume, box, inside)  # per voxel, (N,); per spot, (S,)
        in_organ, in_mask = (np.bincount(spot, one, len(top)) for one in (masked & (away_mm == 0), masked))
        physiological = (away_mm[top] <= NEAR_MM) | (in_organ > 0.5 * in_mask)
        kept[box][inside] &= ~(physiological[spot] & (away_mm <= rim_mm))
    return kept


def physiology_from_clicks(volume: Volume, clicks_ijk: Iterable[Sequence[int]], threshold: float = 4.0) -> np.ndarray:
    """Mask of hot organs from a click on each, for a scan without organ labels.

    A click selects the peak that steepest ascent leads to, see `hot_spots`, and the region that is 26-connected with
    that peak and has at least half its uptake. The rim around it is left to `without_physiology`.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        clicks_ijk: Clicked voxels, such as the background clicks of a click file.
        threshold: SUVbw from which a voxel is hot, g/mL; clicks on colder voxels are ignored.

    Returns:
        Bool, shape (I, J, K); empty if nothing hot was clicked.

    Raises:
        UnitError: `volume` is not in SUVbw.
        ClickError: A click is not a voxel of the volume.
        VolumeError: `threshold` is negative or not a number.
    """
    check_suvbw(volume)
    check_nonnegative("threshold", threshold)
    clicks = [volume.check_voxel(ijk) for ijk in clicks_ijk]
    hot = volume.data >= threshold
    spots = hot_spots(volume, hot)
    clicked = {int(spots[ijk]) for ijk in clicks} - {0}
    organs = np.zeros(volume.shape, bool)
    for box, inside in connected_pieces(hot):
        uptake, spot = volume.data[box], spots[box]
        for number in clicked.intersection(np.unique(spot[inside]).tolist()):
            peak = np.unravel_index(np.where(spot == number, uptake, -np.inf).argmax(), spot.shape)
            parts, _ = ndimage.label(inside & (uptake >= CLICKED * uptake[peak]), CONNECTED_26)
            organs[box] |= parts == parts[peak]
    return organs


def hot_spots(volume: Volume, mask: np.ndarray) -> np.ndarray:
    """Divide a mask into hot spots: each voxel belongs to the peak that steepest ascent leads to.

    Ascent goes from voxel to voxel of the mask, on intensities smoothed with a Gaussian of sigma 2 mm so that noise
    makes few peaks; slopes are per mm so that the grid does not matter. Two peaks merge if the saddle between them is
    at least 0.9 of the lower one; peaks in different 26-connected pieces of the mask never do.

    Args:
        volume: PET in SUVbw, shape (I, J, K).
        mask: Bool, shape (I, J, K).

    Returns:
        Labels 1, 2, ..., 0 outside the mask, shape (I, J, K), int32.

    Raises:
        UnitError, GeometryError, VolumeError: As `without_physiology`.

    Source: the watershed transform (Beucher and Lantuejoul, 1979), by steepest ascent; merging by the dynamics of
    peaks (Grimaud, 1992), here relative to the peak, since a PET's noise grows with its signal.
    """
    mask = check_mask(volume, mask, "mask")
    labels, count = np.zeros(mask.shape, np.int32), 0
    for box, inside in connected_pieces(mask):
        spot, top = _spots(volume, box, inside)
        labels[box][inside] = spot + count + 1
        count += len(top)
    return labels


def check_nonnegative(name: str, value: float) -> None:
    """Raise VolumeError unless `value` is a number of 0 or more."""
    if not isinstance(value, Real) or not 0 <= value < np.inf:
        raise VolumeError(f"{name}={value!r}; expected a number of 0 or more.")


def _widened(volume: Volume, box: Box, by_mm: float) -> tuple[Box, Box]:
    """A box widened on all sides within the volume, and the original box in its coordinates."""
    margins = np.ceil(by_mm * np.linalg.norm(np.linalg.inv(volume.affine[:3, :3]), axis=1))
    wide = widen_box(box, margins, volume.shape)
    return wide, box_within(box, wide)


def _spots(volume: Volume, box: Box, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hot spot of each voxel of a piece, (N,), and the voxel at the peak of each spot, (S,).

    Voxels are numbered as in `volume.data[box][inside]`.
    """
    wide, inner = _widened(volume, box, 3 * SMOOTHING_MM)
    smooth = ndimage.gaussian_filter(volume.data[wide], SMOOTHING_MM / np.array(volume.spacing), truncate=3.0)
    height = smooth[inner][inside].astype(float)
    # Number of each voxel in a box with a border, so that no step leaves it; -1 outside the piece.
    number = np.full(np.array(inside.shape) + 2, -1, np.int32)
    number[1:-1, 1:-1, 1:-1][inside] = np.arange(height.size)
    position = np.flatnonzero(number.ravel() >= 0)
    stride = np.array((number.shape[1] * number.shape[2], number.shape[2], 1))

    up, steepest = np.arange(height.size), np.zeros(height.size)
    neighbours = []
    for step in _STEPS:
        there = number.ravel()[position + step @ stride]
        here = np.flatnonzero(there >= 0)
        there = there[here]
        neighbours.append((here, there))
        slope = (height[there] - height[here]) / np.linalg.norm(volume.affine[:3, :3] @ step)
        rises = slope >= steepest[here]  # on a plateau forward only, so that no path is circular
        up[here[rises]], steepest[here[rises]] = there[rises], slope[rises]
        falls = -slope > steepest[there]
        up[there[falls]], steepest[there[falls]] = here[falls], -slope[falls]
    while (up != up[up]).any():  # each round doubles the number of steps
        up = up[up]
    top, spot = np.unique(up, return_inverse=True)
    merged = _merged(height, top, spot, *np.concatenate(neighbours, axis=1))
    chosen, into = np.unique(merged, return_inverse=True)
    return into[spot], top[chosen]


def _merged(height: np.ndarray, top: np.ndarray, spot: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """For each spot the spot that it merges into, (S,): those with a shallow dip between them, highest saddle first.

    `height` and `spot` are per voxel, (N,); `top` is per spot, (S,); `here` and `there` are neighbours, (P,).
    """
    part_of = np.arange(len(top))

    def whole(one: int) -> int:
        while part_of[one] != one:
            one = part_of[one]
        return one

    border = spot[here] != spot[there]
    here, there = here[border], there[border]
    pair = np.sort(np.stack((spot[here], spot[there])), axis=0)
    saddle = np.minimum(height[here], height[there])
    order = np.argsort(-saddle, kind="stable")
    # The first crossing between two spots is their highest.
    first = np.sort(np.unique(pair[0, order] * len(top) + pair[1, order], return_index=True)[1])
    for crossing in order[first]:
        low, high = sorted((whole(one) for one in pair[:, crossing]), key=lambda one: height[top[one]])
        if low != high and saddle[crossing] >= MERGE * height[top[low]]:
            part_of[low] = high
    return np.array([whole(one) for one in range(len(top))])
