"""Metrics of masks against the truth, of clicks, and of lesions, each with its definition.

What is undefined stays undefined: overlap with an empty truth is NaN; means leave it out, and tables count it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from seganypet.comparison import Comparison, Target, check_pair
from seganypet.errors import SegAnyPETError
from seganypet.regions import CONNECTED_18, box_of_both

LEVEL = 0.95  # coverage of intervals
MIN_IOU = 0.1  # from which a found and a true lesion may be paired


class ClicksNeeded(NamedTuple):
    """Result of `noc`: number of clicks, and whether the threshold was never reached."""

    clicks: float
    failed: bool


class ClickArea(NamedTuple):
    """Result of `auc`: area under DSC over clicks, and the same divided by the largest possible area."""

    raw: float
    relative: float


class Interval(NamedTuple):
    """A mean and its bootstrap interval."""

    mean: float
    low: float
    high: float


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice similarity coefficient (DSC), 2 |mask and truth| / (|mask| + |truth|), over the whole volume.

    Args:
        mask: Bool, shape (I, J, K).
        truth: Bool, shape (I, J, K).

    Returns:
        DSC from 0.0 to 1.0; NaN if the truth is empty, whatever the mask.

    Raises:
        GeometryError: A mask is not bool, or the shapes differ.

    >>> dice(np.array([[[True, True, False]]]), np.array([[[True, False, False]]]))
    0.6666666666666666
    """
    check_pair(mask, truth)
    size = np.count_nonzero(truth)
    if size == 0:
        return float("nan")
    return float(2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + size))


def surface_dice(
    mask: np.ndarray, truth: np.ndarray, spacing: Sequence[float], tolerance_mm: float | None = None
) -> float:
    """Normalised surface Dice (NSD): fraction of both surfaces that lies within a tolerance of the other surface.

    The surface of a mask is its voxels with a face neighbour outside it; beyond the volume is outside. Distances are
    between voxel centres, in mm.

    Args:
        mask: Bool, shape (I, J, K).
        truth: Bool, shape (I, J, K).
        spacing: Voxel size along (i, j, k), in mm.
        tolerance_mm: Largest distance that counts as agreement; default: the largest of `spacing`.

    Returns:
        NSD from 0.0 to 1.0; 0.0 for an empty mask; NaN if the truth is empty.

    Raises:
        GeometryError: If a mask is not bool or the shapes differ.

    Source: Nikolov et al. 2021 in the voxel-counting form of MONAI's `compute_surface_dice`, whose numbers it gives.
    """
    return Comparison(mask, Target(truth, spacing)).nsd(tolerance_mm)


# What `evaluate` measures of each mask, by the name of its column. A metric that is added here is in its tables and
# summaries.
METRICS: dict[str, Callable[[Comparison], float]] = {
    "dsc": lambda pair: dice(pair.mask, pair.truth),
    "nsd": Comparison.nsd,
    "hd95_mm": Comparison.hd95_mm,
    "assd_mm": Comparison.assd_mm,
}


def scores_of(mask: np.ndarray, target: Target) -> dict[str, float]:
    """All `METRICS` of a mask, bool, shape of the target's truth; arguments and errors as for `Comparison`."""
    pair = Comparison(mask, target)
    return {name: metric(pair) for name, metric in METRICS.items()}


def noc(dsc_per_click: Sequence[float], threshold: float = 0.85, cap: int = 20) -> ClicksNeeded:
    """Number of clicks until DSC first reaches a threshold (NoC).

    Args:
        dsc_per_click: DSC after click 1, 2, ...
        threshold: DSC to reach.
        cap: Largest number of clicks considered.

    Returns:
        Clicks needed; `cap` and failed=True if `cap` clicks do not reach the threshold; NaN if any DSC is NaN (empty
        truth).

    Raises:
        SegAnyPETError: Fewer than `cap` clicks were made and none reached the threshold, so that NoC is unknown.

    >>> noc([0.5, 0.86, 0.9])
    ClicksNeeded(clicks=2, failed=False)
    """
    values = np.asarray(dsc_per_click, float)[:cap]
    if np.isnan(values).any():
        return ClicksNeeded(float("nan"), False)
    reached = np.flatnonzero(values >= threshold)
    if len(reached):
        return ClicksNeeded(int(reached[0]) + 1, False)
    if len(values) < cap:
        raise SegAnyPETError(
            f"DSC {threshold} was not reached in {len(values)} clicks, and the cap is {cap}: NoC is unknown. "
            f"Evaluate with clicks={cap}."
        )
    return ClicksNeeded(cap, True)


def auc(dsc_per_click: Sequence[float]) -> ClickArea:
    """Area under DSC over clicks by the trapezoid rule, with steps of one click.

    Args:
        dsc_per_click: DSC after each of at least two steps (for autoPET IV: after 0, 1, ..., 10 clicks).

    Returns:
        The raw area, and the area divided by its maximum, the number of steps minus one.

    Raises:
        SegAnyPETError: There are fewer than two steps.

    >>> auc([0.0, 0.5, 1.0])
    ClickArea(raw=1.0, relative=0.5)
    """
    values = np.asarray(dsc_per_click, float)
    if values.ndim != 1 or len(values) < 2:
        raise SegAnyPETError(f"DSC after {values.size} steps; expected at least two for an area over clicks.")
    raw = float(np.trapezoid(values))
    return ClickArea(raw, raw / (len(values) - 1))


def bootstrap_interval(values: Sequence[float], patients: Sequence[str], seed: int = 0, draws: int = 2000) -> Interval:
    """Mean over patients and its 95 % percentile bootstrap interval; patients are resampled, not rows.

    Each patient counts once, with the mean of their values, because several lesions of one patient are not independent
    observations. NaN values are left out.

    Args:
        values: One number per row.
        patients: Patient of each row, same length.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap samples.

    Returns:
        Mean and interval; all NaN without any value; a NaN interval with a single patient, whose spread is unknown.

    Raises:
        SegAnyPETError: The lengths differ.
    """
    values, patients = np.asarray(values, float), np.asarray(patients).astype(str)
    if values.shape != patients.shape or values.ndim != 1:
        raise SegAnyPETError(f"{values.size} values for {patients.size} patients; expected one patient per value.")
    known = ~np.isnan(values)
    if not known.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    _, owner = np.unique(patients[known], return_inverse=True)
    per_patient = np.bincount(owner, weights=values[known]) / np.bincount(owner)
    mean = float(per_patient.mean())
    if len(per_patient) == 1:
        return Interval(mean, float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(len(per_patient), size=(draws, len(per_patient)))
    low, high = np.quantile(per_patient[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def fpv_ml(mask: np.ndarray, truth: np.ndarray, voxel_volume_ml: float) -> float:
    """False positive volume: 18-connected components of the mask that share no voxel with the truth, in mL.

    Source: autoPET challenge. With an empty truth, all of the mask is false positive.
    """
    return float(_untouched_voxels(mask, truth) * voxel_volume_ml)


def fnv_ml(mask: np.ndarray, truth: np.ndarray, voxel_volume_ml: float) -> float:
    """False negative volume: 18-connected lesions of the truth that share no voxel with the mask, in mL.

    Source: autoPET challenge. 0.0 for an empty truth.
    """
    return float(_untouched_voxels(truth, mask) * voxel_volume_ml)


def lesion_f1(mask: np.ndarray, truth: np.ndarray) -> float:
    """Detection F1, 2 TP / (found + true): 18-connected components paired one to one where their IoU is at least 0.1.

    Args:
        mask: Bool, shape (I, J, K).
        truth: Bool, shape (I, J, K).

    Returns:
        F1 from 0.0 to 1.0, for the largest possible number of pairs; NaN if there is neither a found nor a true lesion.

    Raises:
        GeometryError: A mask is not bool, or the shapes differ.
    """
    check_pair(mask, truth)
    found_count, true_count, pairs = _matches(mask, truth)
    if found_count + true_count == 0:
        return float("nan")
    matches = csr_matrix((np.ones(pairs.shape[1]), pairs - 1), shape=(found_count, true_count))
    paired = np.count_nonzero(maximum_bipartite_matching(matches) >= 0)
    return 2 * paired / (found_count + true_count)


def dmm(mask: np.ndarray, truth: np.ndarray) -> tuple[float, int, int, int]:
    """Detection of lesions as autoPET V counts it (its DMM): many lesions may be matched by one finding.

    18-connected components match where their IoU is at least 0.1. TP are true lesions with any match, FN the others,
    FP findings without one; F1 is 2 TP / (2 TP + FP + FN).

    Args:
        mask: Bool, shape (I, J, K).
        truth: Bool, shape (I, J, K).

    Returns:
        F1, NaN if the truth is empty; TP, FP, FN.

    Raises:
        GeometryError: A mask is not bool, or the shapes differ.

    Source: the challenge's evaluation code (Apache-2.0), written out anew.
    """
    check_pair(mask, truth)
    found_count, true_count, matches = _matches(mask, truth)
    true_positive = len(np.unique(matches[1]))
    false_positive, false_negative = found_count - len(np.unique(matches[0])), true_count - true_positive
    if not true_count:
        return float("nan"), 0, false_positive, 0
    f1 = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
    return f1, true_positive, false_positive, false_negative


def _matches(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Number of found and of true components, and the pairs (found, true), from 1, with an IoU of `MIN_IOU`, (2, n)."""
    found, found_count = ndimage.label(mask, CONNECTED_18)
    true, true_count = ndimage.label(truth, CONNECTED_18)
    both = mask & truth
    pairs, shared = np.unique(np.stack([found[both], true[both]]), axis=1, return_counts=True)
    union = np.bincount(found.ravel())[pairs[0]] + np.bincount(true.ravel())[pairs[1]] - shared
    return found_count, true_count, pairs[:, shared / union >= MIN_IOU]


def lesion_scores(
    mask: np.ndarray, truth: np.ndarray, uptake: np.ndarray, voxel_volume_ml: float
) -> dict[str, float]:
    """How well a mask finds and outlines all lesions of a scan.

    Args:
        mask: Bool, shape (I, J, K).
        truth: All lesions, bool, shape (I, J, K).
        uptake: Intensities of the scan, shape (I, J, K), in its unit.
        voxel_volume_ml: Volume of one voxel, in mL.

    Returns:
        dsc; fpv_ml, fnv_ml, f1 (see `fpv_ml`, `fnv_ml`, `lesion_f1`); fnv_fraction, FNV as a fraction of the tumour
        volume; lesions, their number (18-connected); and those of `tumour_burden`. NaN where undefined: a scan without
        lesions has no DSC, F1 or fnv_fraction.
    """
    box = box_of_both(mask, truth)
    burden = tumour_burden(mask, truth, uptake, voxel_volume_ml)
    found, true = mask[box], truth[box]
    missed_ml = fnv_ml(found, true, voxel_volume_ml)
    return {
        "dsc": dice(found, true),
        "fpv_ml": fpv_ml(found, true, voxel_volume_ml),
        "fnv_ml": missed_ml,
        "fnv_fraction": missed_ml / burden["true_mtv_ml"] if burden["true_mtv_ml"] else float("nan"),
        "f1": lesion_f1(found, true) if burden["true_mtv_ml"] else float("nan"),
        "lesions": ndimage.label(true, CONNECTED_18)[1],
    } | burden


def tumour_burden(
    mask: np.ndarray, truth: np.ndarray, uptake: np.ndarray, voxel_volume_ml: float
) -> dict[str, float]:
    """Volume, and uptake times volume, of a mask and of the truth, without any threshold.

    Args:
        mask, truth, uptake, voxel_volume_ml: As for `lesion_scores`.

    Returns:
        mtv_ml and tlg of the mask, in mL and in the unit of `uptake` times mL; true_mtv_ml and true_tlg of the truth.
    """
    return {
        "mtv_ml": np.count_nonzero(mask) * voxel_volume_ml,
        "tlg": float(uptake[mask].sum(dtype=float)) * voxel_volume_ml,
        "true_mtv_ml": np.count_nonzero(truth) * voxel_volume_ml,
        "true_tlg": float(uptake[truth].sum(dtype=float)) * voxel_volume_ml,
    }


def _untouched_voxels(components_of: np.ndarray, other: np.ndarray) -> int:
    check_pair(components_of, other)
    labels, _ = ndimage.label(components_of, CONNECTED_18)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    sizes[np.unique(labels[other])] = 0
    return int(sizes.sum())
