"""Annotators who err: organ labels of a chosen mean DSC, drawn by named models with a severity.

They stand in for what made the paper's low-quality labels (supplement A.3, Fig. 1): a segmentation model and a junior
annotator. Published is how far such labels lie from the truth: DSC 0.6 to 0.7 for thresholds, 0.77 to 0.94 for a CT
model's organs on other scans, 0.82 to 0.83 for organs drawn on the PET alone. Published ingredients are the contour
at 41 % of SUVmax and organs that a model misses. All sizes and directions below are our inference.

The errors are systematic. Errors that are random with mean zero average out while a network is trained, and cost it
little; those of people and models do not, because the same annotator errs the same way again:

    boundary       draws too large, as PET's blur makes organs look, along a contour that wanders
    threshold41    follows 41 % of SUVmax: loses an organ with a hot spot, swells into hot neighbours
    missed_slices  stops early at both ends, earlier at the head's, and forgets a slice here and there
    z_shift        too far to the feet, nine times in ten: copied from a CT that was taken in deeper inspiration
    leak           runs over where the hottest neighbour touches
    fissures       sets the borders between lung lobes too high or too low all along
    missing_organ  draws nothing

An annotator (region, mask to spoil, source of random numbers) draws its numbers once and returns a function from
severity to mask: a severity can then be searched for while all else stays.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from seganypet.errors import SegAnyPETError
from seganypet.metrics import dice
from seganypet.organs import ORGANS
from seganypet.phantom.canvas import Box, smooth_field
from seganypet.regions import bounding_box

if TYPE_CHECKING:
    from seganypet.phantom.scan import PhantomCase

MAX_SEVERITY = 5.0  # 1 is a bad day; at 5 the largest errors just fit into a region
TARGETS = (0.60, 0.93)  # mean DSC that can be asked for
_MARGIN_MM = 45.0
_NEAR_ENOUGH = 0.01  # a DSC this near to its goal is left alone
_NO_EFFECT = 0.05  # an annotator who can do no more harm than this cannot act on the organ

Draw = Callable[[float], np.ndarray]  # severity -> mask, bool, shape of the region


@dataclass(frozen=True, eq=False)
class Region:
    """What an annotator sees: a box around one organ (a lobe's whole lung), 45 mm wider on every side.

    Attributes:
        box: Its position in the case's grid.
        pet: Uptake in SUVbw, shape (I, J, K) of the box, float32.
        truth: Mask of the organ, bool, shape of the box.
        lobes: Labels of the lobes of the organ's lung, uint8, shape of the box; all 0 for other organs.
        organ_id: Label of the organ, 1 to 12.
        spacing: Voxel size along (i, j, k), in mm.
        up_ijk: Voxels per mm towards the patient's head, shape (3,), whatever the grid's orientation.
    """

    box: Box
    pet: np.ndarray
    truth: np.ndarray
    lobes: np.ndarray
    organ_id: int
    spacing: tuple[float, float, float]
    up_ijk: np.ndarray

    def field(self, rng: np.random.Generator, correlation_mm: float) -> np.ndarray:
        """Smooth random field, mean 0, variance 1, whose correlation falls to 1/e at `correlation_mm`."""
        axes = [size * np.arange(count) for size, count in zip(self.spacing, self.truth.shape, strict=True)]
        # Kernels of sd 0.7 step make a correlation of exp(-(distance / 1.4 step)^2).
        return smooth_field(rng, axes, [0.0] * 3, [axis[-1] for axis in axes], correlation_mm / 1.4)

    def signed_distance(self, mask: np.ndarray) -> np.ndarray:
        """Distance (mm) of voxel centres to the mask's surface, half a voxel out; negative inside."""
        outside = ndimage.distance_transform_edt(~mask, sampling=self.spacing)
        inside = ndimage.distance_transform_edt(mask, sampling=self.spacing)
        return np.where(mask, min(self.spacing) / 2 - inside, outside - min(self.spacing) / 2).astype(np.float32)


def boundary(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """Surface moved by a smooth field: sd 4 mm and 2 mm outwards per severity; correlation 15 mm, more on big organs.

    Source: sd 3 to 5 mm at 15 mm in our recipe. On an organ wider than a kidney the correlation is 0.3 times the cube
    root of its volume (our inference): a tired hand is wrong in stretches, and short waves would break off islands.
    """
    volume_mm3 = mask.sum() * np.prod(region.spacing)
    level_mm = region.signed_distance(mask)
    move_mm = 4 * region.field(rng, max(15.0, 0.3 * volume_mm3 ** (1 / 3))) + 2
    return lambda severity: level_mm < severity * move_mm


def threshold41(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """Contour at 41 % of the organ's SUVmax, followed within about 5 mm of the mask's surface per severity.

    Beyond that the mask stays as it was. The reach wanders by a third, as distances between voxels come in steps.
    """
    hot = region.pet >= 0.41 * region.pet[region.truth].max()
    depth_mm = np.abs(region.signed_distance(mask))
    reach_mm = 5 * np.clip(1 + region.field(rng, 30.0) / 3, 0.5, 1.5)
    return lambda severity: np.where(depth_mm < severity * reach_mm, hot, mask)


def missed_slices(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """15 % of the axial slices left empty per severity: the ends, 55 to 80 % of them the head's, and some inside."""
    axis = int(np.argmax(np.abs(region.up_ijk)))
    drawn = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
    drawn = drawn if region.up_ijk[axis] > 0 else drawn[::-1]  # from the feet to the head
    from_feet = (np.arange(drawn.size) + 0.5) / drawn.size
    head_fraction = rng.uniform(0.55, 0.80)
    # Slices are missed in the order of `kept_until`, which grows from both ends to 1 where they meet.
    kept_until = np.minimum((1 - from_feet) / head_fraction, from_feet / (1 - head_fraction))
    kept_until *= np.where(rng.random(drawn.size) < 0.1, rng.random(drawn.size), 1)
    order = drawn[np.argsort(kept_until, kind="stable")]

    def draw(severity: float) -> np.ndarray:
        left = np.moveaxis(mask.copy(), axis, 0)
        left[order[: round(0.15 * severity * order.size)]] = False
        return np.moveaxis(left, 0, axis)

    return draw


def z_shift(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """Shifted along the patient's z by 8 mm per severity, rounded to whole voxels; to the feet nine times in ten.

    Source: labels from a CT lie 5 to 20 mm off at the liver's dome, 0 to 15 mm in our recipe.
    """
    step_ijk = region.up_ijk * 8 * (1 if rng.random() < 0.1 else -1)
    return lambda severity: ndimage.shift(mask, np.rint(severity * step_ijk), order=0)


def leak(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """Grown into a neighbour as hot as the organ, by 20 % of the organ's volume per severity.

    As hot is 0.9 times the organ's median or more, in the PET smoothed by 4 mm (sd) so that noise does not riddle the
    leak. The largest connected hot region that touches the organ is taken, voxel by voxel, outwards from the hottest
    spot of contact. Nothing happens if no hot region touches, and no more than all of it is taken.
    """
    smooth = ndimage.gaussian_filter(region.pet, 4 / np.array(region.spacing))
    as_hot = (smooth >= 0.9 * np.median(region.pet[region.truth])) & ~mask & ~region.truth
    contact = np.flatnonzero(ndimage.binary_dilation(mask) & as_hot)
    if not contact.size:
        return lambda severity: mask
    pieces = ndimage.label(as_hot)[0].ravel()
    sizes = np.bincount(pieces)
    piece = max(np.unique(pieces[contact]), key=lambda label: sizes[label])
    contact = contact[pieces[contact] == piece]
    # Which of the hottest voxels is the very hottest is noise.
    start = rng.choice(contact[np.argsort(smooth.flat[contact], kind="stable")[-5:]])
    within = np.flatnonzero(pieces == piece)
    offset_ijk = np.stack(np.unravel_index(within, mask.shape), 1) - np.unravel_index(start, mask.shape)
    nearest = within[np.argsort(np.linalg.norm(offset_ijk * region.spacing, axis=1), kind="stable")]
    organ_voxels = np.count_nonzero(region.truth)

    def draw(severity: float) -> np.ndarray:
        leaked = mask.copy()
        leaked.flat[nearest[: round(0.2 * severity * organ_voxels)]] = True
        return leaked

    return draw


def fissures(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """Borders between the lobes of a lung moved up or down by about 8 mm per severity; other organs stay.

    The lung's outer border stays: equal random numbers for each lobe of a lung give lobes that fill the same lung.

    Source: 5 to 15 mm either way in our recipe.
    """
    if not region.lobes.any():
        return lambda severity: mask
    lung = np.nonzero(region.lobes)
    move_mm = 8 * rng.choice((-1, 1)) * (1 + region.field(rng, 40.0)[lung] / 3)
    nearest = ndimage.distance_transform_edt(
        region.lobes == 0, sampling=region.spacing, return_distances=False, return_indices=True
    )
    # A lobe is continued beyond the lung's border, so that a border which moves inwards from there has a side.
    continued = region.lobes[tuple(nearest)]

    def draw(severity: float) -> np.ndarray:
        source = tuple(
            np.clip(np.rint(index + step * severity * move_mm), 0, size - 1).astype(int)
            for index, step, size in zip(lung, region.up_ijk, mask.shape, strict=True)
        )
        moved = mask.copy()
        was, now = region.truth[lung], continued[source] == region.organ_id
        moved[lung] = np.where(was == now, mask[lung], now)
        return moved

    return draw


def missing_organ(region: Region, mask: np.ndarray, rng: np.random.Generator) -> Draw:
    """An empty mask from severity 1 on, the unchanged mask below: the organ is forgotten or not."""
    return lambda severity: mask & (severity < 1)


ANNOTATORS: dict[str, Callable[[Region, np.ndarray, np.random.Generator], Draw]] = {
    annotator.__name__: annotator
    for annotator in (boundary, threshold41, missed_slices, z_shift, leak, fissures, missing_organ)
}
DRAWING = tuple(name for name in ANNOTATORS if name != "missing_organ")


@dataclass(frozen=True)
class OrganReport:
    """How one organ was drawn.

    Attributes:
        organ: Name of the organ.
        annotators: Names of its annotators in turn: the second started from the first one's mask.
        severity: Severity of each annotator.
        dsc: DSC of the organ in the label map to the truth; 0.0 if it is missing.
    """

    organ: str
    annotators: tuple[str, ...]
    severity: tuple[float, ...]
    dsc: float


@dataclass(frozen=True, eq=False)
class LowQualityLabels:
    """Labels with errors, and a report of the errors.

    Attributes:
        labels: Label map with 1 to 12 as in the case's `organ_names`, 0 elsewhere, shape of the case, uint8.
        report: One entry per requested organ that the case has, in the order of ORGANS.
    """

    labels: np.ndarray
    report: tuple[OrganReport, ...]

    @property
    def mean_dsc(self) -> float:
        """Mean DSC over the report's organs, missing ones as 0; NaN if the case has none of the requested organs."""
        return float(np.mean([entry.dsc for entry in self.report])) if self.report else float("nan")


def annotate(case: "PhantomCase", organ: str, annotator: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """One organ as an annotator draws it.

    Args:
        case: The phantom.
        organ: Organ to draw, one of ORGANS that the case has.
        annotator: Annotator who draws it, one of ANNOTATORS.
        severity: Size of the error, from 0 (the truth exactly) to MAX_SEVERITY; each annotator documents what 1 means.
            missing_organ knows two states: the truth below 1, nothing from 1 on.
        rng: Source of random numbers; from the same state the error is of the same kind, larger or smaller with the
            severity.

    Returns:
        Mask, bool, shape of `case.pet`.

    Raises:
        SegAnyPETError: Unknown organ or annotator, an organ that the case lacks, or a severity out of range.
    """
    _check_known("annotate", "organ", organ, ORGANS)
    _check_known("annotate", "annotator", annotator, ANNOTATORS)
    if not 0 <= severity <= MAX_SEVERITY:
        raise SegAnyPETError(f"annotate: severity={severity!r}; expected 0 (the truth) to {MAX_SEVERITY}.")
    present = [name for number, name in case.organ_names.items() if (case.organs == number).any()]
    if organ not in present:
        raise SegAnyPETError(f"{case.pet.source}: there is no {organ} to annotate; it has {', '.join(present)}.")
    region, mask = _region(case, organ), np.zeros(case.organs.shape, bool)
    mask[region.box] = ANNOTATORS[annotator](region, region.truth, rng)(severity)
    return mask


def low_quality_labels(
    case: "PhantomCase", target_dsc: float = 0.75, seed: int = 0, organs: Sequence[str] = ORGANS,
    missing_rate: float = 0.02, annotators: Sequence[str] = DRAWING,
) -> LowQualityLabels:  # fmt: skip
    """Label map of a chosen mean DSC, each organ drawn by one annotator or by two in turn (rarely by three).

    An organ's goal is drawn evenly within 0.07 (sd 0.04) of the target; the others make up for missing organs. Its
    annotators come in random order; each spoils the mask until the goal is reached, or half of the way if two are to
    share it; one who cannot go that far hands over to the next. Organs are drawn from the smallest to the largest, each
    around those that are there: of an overlap the smaller one keeps the voxels, and the search for severity counts it.

    Args:
        case: The phantom.
        target_dsc: Mean DSC of organs to the truth, 0.60 to 0.93, met within 0.02 over many organs.
        seed: Seed of all draws; the same case, seed and target give the same bits. An organ's random numbers do not
            depend on which others are requested; only the voxels that a smaller one claims do.
        organs: Organs to draw; those that the case lacks are skipped.
        missing_rate: Probability that an organ is left out altogether.
        annotators: Who draws, of DRAWING; alone not everyone can go as far as the target.

    Returns:
        The labels, and how each organ was drawn.

    Raises:
        SegAnyPETError: Unknown organ or annotator; target, seed or rate out of range; a rate so high that the organs
            which are drawn cannot make up for those which are missing.
    """
    _check_request(target_dsc, seed, organs, missing_rate, annotators)
    labels = np.zeros(case.organs.shape, np.uint8)
    report = {}
    sizes = np.bincount(case.organs.ravel(), minlength=len(ORGANS) + 1)[1:]
    for organ_id in 1 + np.argsort(sizes, kind="stable"):
        organ = ORGANS[organ_id - 1]
        if organ not in organs or sizes[organ_id - 1] == 0:
            continue
        rng = np.random.default_rng([seed, case.seed, *case.domain.encode(), organ_id])
        centre = target_dsc / (1 - missing_rate)
        goal = centre + rng.uniform(-1, 1) * min(0.07, 0.99 - centre)
        if rng.random() < missing_rate:
            report[organ] = OrganReport(organ, ("missing_organ",), (1.0,), 0.0)
            continue
        region = _region(case, organ)
        mask, report[organ] = _spoiled(region, labels[region.box] == 0, goal, annotators, rng)
        labels[region.box][mask] = organ_id
    return LowQualityLabels(labels, tuple(report[organ] for organ in ORGANS if organ in report))


def _spoiled(
    region: Region, free: np.ndarray, goal: float, annotators: Sequence[str], rng: np.random.Generator
) -> tuple[np.ndarray, OrganReport]:
    """Mask within `free` whose DSC is near `goal`, and how it came about."""
    two = rng.random() < 1 / 3
    mask = region.truth & free
    dsc = dice(mask, region.truth)
    drawn: dict[str, float] = {}  # severity of each annotator
    for name in rng.permutation(list(annotators)):
        if dsc <= goal + _NEAR_ENOUGH:
            break
        draw = ANNOTATORS[name](region, mask, rng)

        def dsc_at(severity: float, draw: Draw = draw) -> float:
            return dice(draw(severity) & free, region.truth)

        if dsc_at(MAX_SEVERITY) > dsc - _NO_EFFECT:  # such as fissures of a liver
            continue
        severity = _severity_for(dsc_at, (dsc + goal) / 2 if two and not drawn else goal)
        mask, dsc = draw(severity) & free, dsc_at(severity)
        drawn[str(name)] = severity
    return mask, OrganReport(ORGANS[region.organ_id - 1], tuple(drawn), tuple(drawn.values()), dsc)


def _severity_for(dsc_at: Callable[[float], float], goal: float) -> float:
    """Severity, by bisection, whose DSC is nearest to `goal`; the largest if even that is not bad enough."""
    low, high = 0.0, MAX_SEVERITY
    tried = {high: dsc_at(high)}
    for _ in range(10 if tried[high] < goal else 0):
        middle = (low + high) / 2
        tried[middle] = dsc_at(middle)
        low, high = (middle, high) if tried[middle] > goal else (low, middle)
    return min(tried, key=lambda severity: abs(tried[severity] - goal))


def _region(case: "PhantomCase", organ: str) -> Region:
    """The surroundings of an organ that the case has."""
    organ_id = ORGANS.index(organ) + 1
    side = organ.rpartition("_")[2]
    lung = [n for n, name in enumerate(ORGANS, start=1) if "lobe" in name and name.endswith(side)]
    lobe_ids = lung if organ_id in lung else []
    spacing = case.pet.spacing
    around = bounding_box(np.isin(case.organs, [organ_id, *lobe_ids])) or ()
    margin = np.ceil(_MARGIN_MM / np.array(spacing)).astype(int)
    box = tuple(
        slice(max(part.start - extra, 0), part.stop + extra) for part, extra in zip(around, margin, strict=True)
    )
    organs = case.organs[box]
    return Region(
        box=box,
        pet=case.pet.data[box],
        truth=organs == organ_id,
        lobes=np.where(np.isin(organs, lobe_ids), organs, 0).astype(np.uint8),
        organ_id=organ_id,
        spacing=spacing,
        up_ijk=np.linalg.inv(case.pet.affine[:3, :3]) @ (0, 0, 1),
    )


def _check_known(function: str, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise SegAnyPETError(f"{function}: unknown {what} {name!r}; expected one of {', '.join(known)}.")


def _check_request(
    target_dsc: float, seed: int, organs: Sequence[str], missing_rate: float, annotators: Sequence[str]
) -> None:
    for what, names, known in (("organ", organs, ORGANS), ("annotator", annotators, DRAWING)):
        for name in names:
            _check_known("low_quality_labels", what, name, known)
    if not TARGETS[0] <= target_dsc <= TARGETS[1]:
        raise SegAnyPETError(f"low_quality_labels: target_dsc={target_dsc!r}; expected {TARGETS[0]} to {TARGETS[1]}.")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SegAnyPETError(f"low_quality_labels: seed={seed!r}; expected an integer of at least 0.")
    largest_rate = 1 - target_dsc / 0.98
    if not 0 <= missing_rate <= largest_rate:
        why = f"for target_dsc={target_dsc}: missing organs count 0 in the mean, and the others must make up for them"
        raise SegAnyPETError(
            f"low_quality_labels: missing_rate={missing_rate!r}; expected 0 to {largest_rate:.2f} {why}."
        )
