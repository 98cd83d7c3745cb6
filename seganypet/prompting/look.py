"""Where to look: the window that fits an object, found by the network itself.

    first_look   the first prompt: a hot spot, what the network sees in a fine and in a wide window, what is even around
                 the click; the likeliest answer first
    look_at_region   the same for a box or a lasso
    follow       the window moves to where the object turned out to be, finer if it is small
    cover        windows over a mask to start from

Whoever clicks knows neither the size of the object nor its middle; a window centred on a click beside the middle cuts
the object, and a network takes what it sees of it for the whole. So the window is centred on the mask found so far, and
decoded again with that mask as the logits of the step before.

Ours, not published; the figures that chose these numbers are in benchmarks/sessions.md.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from seganypet.model.base import PromptableNetwork
from seganypet.prompting.hints import SPOT_ML, START_LOGIT, even_region, hot_region, is_nested, is_warm
from seganypet.prompting.prompts import Box, InitialMask, Lasso
from seganypet.prompting.readings import distinct
from seganypet.prompting.window import Window, resample
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import (
    PointMM,
    WindowLogits,
    dice_in_window,
    keep_clicked_components,
    mask_extent_mm,
    resample_logits,
    touched_faces,
)
from seganypet.regions import CONNECTED_26

FINEST_MM = 1.5
# Looks, in multiples of the network's own voxel size.
WIDE, FINE = 1.5, 0.5
EXTENT = 0.2  # of a window's side; what spans less is decoded in a finer window
MAX_CANDIDATES = 6  # answers to a first prompt that are kept in mind
# Who clicks means the whole of what is there more often than training does, whose targets are also lesions and tissues:
# the predicted IoU of the largest of three readings counts so many times. Chosen on phantoms 300 to 309.
WHOLE = 1.4
MAX_COVER = 64  # windows over a mask to start from; one that needs more gets coarser ones
LATTICE = 16  # windows that follow lie on a lattice of this fraction of their side, so that many are known already

# A spot: what is seen in the fine look, small and with an edge all around; less of it before its window is found.
SPOT_EDGE, MAYBE_SPOT_EDGE = 0.8, 0.72
NESTED_EDGE = 0.65  # of what the network sees where a hot region lies in something warm
EVEN_HANDICAP = 0.8  # of its edge, against that of what the network sees alone
EDGE_STEP = 0.15  # of log(1 + SUV), from which two neighbours differ


class Scales(NamedTuple):
    """Voxel sizes of windows, in mm.

    Attributes:
        own: That of the network, or the one that the user fixed.
        finest: Smallest that a window may take that follows.
        looks_around: Whether a first prompt is seen at several.
    """

    own: float
    finest: float
    looks_around: bool


class Edge(NamedTuple):
    """How clearly a mask stands out.

    Attributes:
        mean: Mean difference, in log(1 + intensity), between the voxels just outside and the mask beside them.
        fraction: Fraction of the voxels just outside that differ.
    """

    mean: float
    fraction: float


def spacings_mm(model: PromptableNetwork, spacing_mm: float | None, min_spacing_mm: float | None) -> Scales:
    """The voxel sizes that suit a network, as far as the user has not fixed them.

    A network in SUV is robust to other voxel sizes than its own; released networks, of z-scores, keep theirs.
    """
    own = float(model.config.spacing_mm)
    if spacing_mm is not None:
        return Scales(spacing_mm, min_spacing_mm or spacing_mm, looks_around=False)
    around = model.config.intensity == "log_suv"
    return Scales(own, min_spacing_mm or (min(own, FINEST_MM) if around else own), around)


class Candidate(NamedTuple):
    """One answer to a first prompt.

    Attributes:
        part: Its window and logits.
        quality: Predicted IoU; None of a network that was not trained to predict it.
    """

    part: WindowLogits
    quality: float | None = None


def first_look(decoder: WindowDecoder, points: list[PointMM], scales: Scales) -> tuple[Candidate, ...]:
    """What a first prompt may mean, the likeliest first: that one in the window that fits it, others as first seen."""
    clicked_mm = next(mm for mm, foreground in points if foreground)
    if not scales.looks_around:
        part = clicked_part(decoder.decode(decoder.blank(decoder.window(clicked_mm, scales.own)), points), points)
        return (Candidate(settled(decoder, part, points, scales)),)
    fine = decoder.blank(decoder.window(clicked_mm, max(FINE * scales.own, scales.finest)))
    wide = decoder.blank(decoder.window(clicked_mm, WIDE * scales.own))
    if decoder.has_readings:
        return by_predicted_iou(decoder, [fine, wide], points, scales)
    starts = {"fine": fine, "wide": wide}
    if (hot := hot_region(decoder, fine.window, clicked_mm)) is not None:
        starts["hot"] = hot
    if is_warm(decoder, even := even_region(decoder, wide.window, clicked_mm)):
        starts["even"] = even
    return by_edge(decoder, starts, points, scales)


def by_predicted_iou(
    decoder: WindowDecoder, looks: list[WindowLogits], points: list[PointMM], scales: Scales
) -> tuple[Candidate, ...]:
    """Three readings of every look, in the order of the IoU that the network predicts, the largest of a look foremost.

    Not of a mask to start from, such as `hints` draw: in training those are mostly right, so it trusts them too much.
    """
    read = [Candidate(clicked_part(part, points), iou) for part, iou in decoder.readings(looks, points)]
    likely: list[tuple[float, Candidate]] = []
    for look in (read[first : first + 3] for first in range(0, len(read), 3)):
        largest = max(look, key=lambda one: one.part.mask.sum())
        likely += [(one.quality * (WHOLE if one is largest else 1), one) for one in look if one.part.mask.any()]
    seen = [one for _, one in sorted(likely, key=lambda one: one[0], reverse=True)] or read[:1]
    best, *others = distinct(seen, lambda one, other: dice_in_window(one.part, other.part), MAX_CANDIDATES)
    return (Candidate(settled(decoder, best.part, points, scales), best.quality), *others)


def by_edge(
    decoder: WindowDecoder, starts: dict[str, WindowLogits], points: list[PointMM], scales: Scales
) -> tuple[Candidate, ...]:
    """One answer to every start: a hot spot or another spot if there is one, then what stands out most clearly."""
    decoded = decoder.decode_all([*starts.values()], points)
    looks = {name: clicked_part(part, points) for name, part in zip(starts, decoded, strict=True)}

    def candidates(best: str, found: WindowLogits) -> tuple[Candidate, ...]:
        others = [part for name, part in looks.items() if name != best and part.mask.any()]
        others.sort(key=lambda part: edge_of(decoder, part).mean, reverse=True)
        return (Candidate(found), *map(Candidate, others))

    nested = "hot" in starts and is_nested(decoder, starts["hot"])
    if "hot" in starts and (not nested or edge_of(decoder, looks["fine"]).fraction >= NESTED_EDGE):
        return candidates("hot", settled(decoder, looks["hot"], points, scales))
    if is_spot(decoder, looks["fine"], MAYBE_SPOT_EDGE):
        spot = settled(decoder, looks["fine"], points, scales)
        if is_spot(decoder, spot, SPOT_EDGE):
            return candidates("fine", spot)
    large = {"wide": 1.0, "even": EVEN_HANDICAP}
    names = [name for name in large if name in looks]
    looks |= zip(names, follow_all(decoder, [looks[name] for name in names], points, scales), strict=True)
    best = max(names, key=lambda name: large[name] * edge_of(decoder, looks[name]).mean)
    return candidates(best, follow(decoder, looks[best], points, scales))


def settled(
    decoder: WindowDecoder, part: WindowLogits, points: list[PointMM], scales: Scales, most: int = 2
) -> WindowLogits:
    """The window after it followed its mask, at most so often."""
    for _ in range(most):
        part = follow(decoder, part, points, scales)
    return part


def look_at_region(decoder: WindowDecoder, region: Box | Lasso, points: list[PointMM], scales: Scales) -> WindowLogits:
    """The window that fits a box or lasso, decoded with the ellipsoid in it as the logits so far.

    What is drawn in a slice is taken to be as thick as it is wide, on the average.
    """
    volume = decoder.volume
    corners = np.array([region.low_ijk, region.high_ijk] if isinstance(region, Box) else region.path_ijk)
    low, high = corners.min(0), corners.max(0)
    half_mm = (high - low + 1) / 2 * volume.spacing
    drawn = low < high
    half_mm[~drawn] = half_mm[drawn].mean() if drawn.any() else half_mm[~drawn]
    spacing_mm = ladder(2 * half_mm.max() / (EXTENT * decoder.model.config.window_size), scales)
    part = decoder.blank(decoder.window(volume.to_mm((low + high) / 2), spacing_mm))
    voxels = np.stack(np.meshgrid(*[np.arange(part.logits.shape[-1])] * 3, indexing="ij"), -1)
    ijk = volume.to_ijk(apply_affine(part.affine, voxels))
    radius = np.linalg.norm((ijk - (low + high) / 2) * volume.spacing / half_mm, axis=-1)
    logits = np.clip(2 * START_LOGIT * (1 - radius), -START_LOGIT, START_LOGIT).astype(np.float32)
    part = replace(part, logits=torch.from_numpy(logits)[None, None].to(part.logits.device))
    return follow(decoder, clicked_part(decoder.decode(part, points), points), points, scales)


def follow(
    decoder: WindowDecoder, part: WindowLogits, points: list[PointMM], scales: Scales, largest_mm: float = np.inf
) -> WindowLogits:
    """The prediction for a window that fits the mask of another better; the same one if it fits well enough.

    What is larger than `largest_mm` is taken to be no larger: one click does not turn a node into an organ.
    """
    return follow_all(decoder, [part], points, scales, largest_mm)[0]


def follow_all(
    decoder: WindowDecoder, parts: list[WindowLogits], points: list[PointMM], scales: Scales,
    largest_mm: float = np.inf,
) -> list[WindowLogits]:  # fmt: skip
    """As `follow`, for several windows in one batch; those that would lie one step aside of another share its place."""
    fitting: list[Window] = []
    for part in parts:
        window = fitting_window(decoder, part, points, scales, largest_mm)
        clicked_mm = part.foreground_in(points)
        beside = (
            other for other in fitting
            if is_beside(other, window) and all(other.contains_mm(mm) for mm in clicked_mm)
        )  # fmt: skip
        fitting.append(next(beside, window))
    starts = [
        WindowLogits(window, resample_logits(part, window))
        for part, window in zip(parts, fitting, strict=True)
        if window != part.window
    ]
    decoded = iter(decoder.decode_all(starts, points))
    return [
        part if window == part.window else clicked_part(next(decoded), points)
        for part, window in zip(parts, fitting, strict=True)
    ]


def fitting_window(
    decoder: WindowDecoder, part: WindowLogits, points: list[PointMM], scales: Scales, largest_mm: float
) -> Window:
    """The window that fits a mask, centred on it and no coarser than it needs; the mask's own if no other is better.

    One step of the lattice aside is not worth another embedding, unless the mask meets a face. With a single voxel
    size, such as a released network's, whose windows take seconds to embed, a window fits unless its mask meets a face.
    """
    clicked_mm, is_whole = part.foreground_in(points), not touched_faces(part.logits)
    if not clicked_mm or (scales.finest == scales.own and is_whole):
        return part.window
    low, high = mask_extent_mm(part, clicked_mm)
    wanted = ladder(min(float((high - low).max()), largest_mm) / (EXTENT * part.window.size), scales)
    lattice = wanted * part.window.size / LATTICE
    window = decoder.window(np.rint((low + high) / 2 / lattice) * lattice, wanted)
    if is_whole and is_beside(window, part.window):
        return part.window
    return window if all(window.contains_mm(mm) for mm in clicked_mm) else part.window


def is_beside(one: Window, other: Window) -> bool:
    """Whether two windows of one voxel size lie at most one step of the lattice apart."""
    shift_mm = np.abs(one.centre_mm - other.centre_mm).max()
    return one.spacing_mm == other.spacing_mm and bool(shift_mm < 1.5 * one.side_mm / LATTICE)


def ladder(spacing_mm: float, scales: Scales) -> float:
    """The next finer voxel size in steps of a factor of the root of two, so that windows repeat; within the bounds."""
    wanted = float(np.clip(spacing_mm, scales.finest, scales.own))
    return max(scales.own * 2 ** (np.floor(2 * np.log2(wanted / scales.own) + 1e-6) / 2), scales.finest)


def clicked_part(part: WindowLogits, points: list[PointMM]) -> WindowLogits:
    """The window with those pieces of its mask alone that hold a foreground point or a seed."""
    seeds_mm = [np.array(mm) for mm in part.seeds_mm if part.window.contains_mm(mm)]
    return replace(part, logits=keep_clicked_components(part, [*part.foreground_in(points), *seeds_mm]))


def is_spot(decoder: WindowDecoder, part: WindowLogits, edge: float) -> bool:
    """Whether a mask is small and stands out from at least a fraction `edge` of what is around it."""
    voxel_ml = abs(np.linalg.det(part.affine)) / 1000
    return part.mask.sum() * voxel_ml <= SPOT_ML and edge_of(decoder, part).fraction >= edge


def edge_of(decoder: WindowDecoder, part: WindowLogits) -> Edge:
    """How clearly the mask of a window stands out from what is just outside it."""
    mask = part.mask
    if not mask.any():
        return Edge(0.0, 0.0)
    uptake = np.log1p(decoder.uptake(part.window))
    shell = ndimage.binary_dilation(mask, CONNECTED_26) & ~mask
    weight = ndimage.uniform_filter(mask.astype(np.float32), 3)
    beside = ndimage.uniform_filter(np.where(mask, uptake, 0).astype(np.float32), 3) / np.maximum(weight, 1e-6)
    steps = np.abs(beside - uptake)[shell]
    return Edge(float(steps.mean()), float((steps > EDGE_STEP).mean())) if steps.size else Edge(0.0, 0.0)


def cover(decoder: WindowDecoder, start: InitialMask, scales: Scales) -> tuple[WindowLogits, ...]:
    """Windows over a mask to start from, whose logits say that mask.

    One window, as coarse as the mask needs it, up to the wide look; a larger mask gets as many as hold some of it.
    """
    volume, size = decoder.volume, decoder.model.config.window_size
    box = start.box
    corners = volume.to_mm([[index for index in corner] for corner in _corners(box)])
    low, high = corners.min(0), corners.max(0)
    widest = WIDE * scales.own if scales.looks_around else scales.own
    wanted = float(np.clip((high - low).max() / (0.6 * size), scales.finest, widest))
    while True:
        counts = np.maximum(np.ceil((high - low) / (0.6 * size * wanted)), 1).astype(int)
        if counts.prod() <= MAX_COVER:
            break
        wanted *= 2**0.5
    affine = volume.affine.copy()
    affine[:3, 3] = volume.to_mm([part.start for part in box])
    inside = torch.from_numpy(start.inside.astype(np.float32))[None, None]
    found = []
    for index in np.ndindex(*counts):
        centre = low + (np.array(index) + 0.5) * (high - low) / counts
        part = decoder.blank(decoder.window(centre, wanted))
        share = resample(inside, affine, part.affine, list(part.logits.shape[2:]))
        part = replace(part, logits=((2 * share - 1) * START_LOGIT).to(part.logits.device))
        if counts.prod() == 1 or share.any():
            found.append(part)
    return tuple(found)


def _corners(box: tuple[slice, ...]) -> list[tuple[int, ...]]:
    ends = [(part.start, part.stop - 1) for part in box]
    return [tuple(ends[axis][bit >> axis & 1] for axis in range(3)) for bit in range(8)]
