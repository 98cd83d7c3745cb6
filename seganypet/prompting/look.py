"""Where to look: the window that fits an object, found by the network itself.

    first_look   the first prompt: a hot spot, what the network sees in a fine and in a wide window; the likeliest first
    look_at_region   the same for a box or a lasso
    follow       the window moves to where the object turned out to be, finer if it is small
    reached      a further prompt far away: one wide window if it means something large, else a second one
    cover        windows over a mask to start from
    outlined     how a first mask becomes whole: the window follows it, and the network clicks in it

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
from scipy.spatial import KDTree

from seganypet.model.base import PromptableNetwork
from seganypet.prompting.binding import edge
from seganypet.prompting.hints import SPOT_ML, START_LOGIT, hot_region, is_nested, is_nested_spot
from seganypet.prompting.prompts import Box, InitialMask, Lasso
from seganypet.prompting.readings import MAX_READINGS, distinct
from seganypet.prompting.window import Window, resample
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import (
    PointMM,
    WindowLogits,
    dice_in_window,
    keep_clicked_components,
    mask_extent_mm,
    pieces_at,
    resample_logits,
    touched_faces,
)
from seganypet.regions import bounding_box, widen_box

FINEST_MM = 1.5
# Looks, in multiples of the network's own voxel size.
WIDE, FINE = 1.5, 0.5
EXTENT = 0.2  # of a window's side; what spans less is decoded in a finer window
MAX_CANDIDATES = 6  # answers to a first prompt that are kept in mind
# Masks of the looks that are followed: as many of the likeliest, and as many that differ as there may be readings.
LIKELIEST, SAME_LOOK = 3, 0.7  # masks of two looks that agree better than this are one
LEAST_SPOT_ML = 1.0  # of a hot spot that comes first whatever surrounds it; smaller ones are noise as often as not
SELF_PROMPTS = 5  # clicks of the network in its own mask, at most
GROWS = 1.15  # times larger than before is a mask by such a click, or it was the last
# What a mask is worth: its edge, times these powers of its volume in mL, as a hot part of an organ has a clearer edge
# than the organ, and of its predicted IoU, where a network was trained to predict it.
LARGER, SURE = 0.1, 0.5
ALIKE = 2.0  # times as much uptake is something else
MAX_COVER = 64  # windows over a mask to start from; one that needs more gets coarser ones
LATTICE = 16  # windows that follow lie on a lattice of this fraction of their side, so that many are known already


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
        worth: What its order follows: how clearly it stands out for its size, and how sure the network is of it.
    """

    part: WindowLogits
    quality: float | None = None
    worth: float = 0.0


def first_look(decoder: WindowDecoder, points: list[PointMM], scales: Scales) -> tuple[Candidate, ...]:
    """What a first prompt may mean, each in the window that fits it, the likeliest first.

    A hot spot that stands alone is what a click on it means. Else come what the likeliest masks become, in the order of
    their worth, but spots in something warm last: who clicks there means the kidney more often than its pelvis.
    """
    clicked_mm = next(mm for mm, foreground in points if foreground)
    if not scales.looks_around:
        part = clicked_part(decoder.decode(decoder.blank(decoder.window(clicked_mm, scales.own)), points), points)
        return (Candidate(follow(decoder, follow(decoder, part, points, scales), points, scales)),)
    fine = decoder.blank(decoder.window(clicked_mm, max(FINE * scales.own, scales.finest)))
    wide = decoder.blank(decoder.window(clicked_mm, WIDE * scales.own))
    seen = decoder.readings([fine, wide], points) if decoder.has_readings else decoder.rated([fine, wide], points)
    looks = [answer(decoder, clicked_part(part, points), iou) for part, iou in seen]
    looks.sort(key=lambda one: one.worth, reverse=True)
    looks = [one for one in looks if one.worth] or looks[:1]
    different = distinct(looks, seen_alike, MAX_READINGS, SAME_LOOK)
    looks = [one for rank, one in enumerate(looks) if rank < LIKELIEST or one in different]
    hot = hot_region(decoder, fine.window, clicked_mm)
    spots = [] if hot is None else [clicked_part(decoder.decode(hot, points), points)]
    starts = [*spots, *(one.part for one in looks)]
    answers = outlined(decoder, distinct(starts, dice_in_window, len(starts)), points, scales)
    in_order = sorted((one for start in answers for one in start), key=lambda one: one.worth, reverse=True)
    in_order.sort(key=lambda one: is_nested_spot(decoder, one.part))  # these last
    if hot is not None and not is_nested(decoder, hot):
        spot = max(answers[0], key=lambda one: one.worth)
        if LEAST_SPOT_ML <= spot.part.volume_ml <= SPOT_ML and not is_nested(decoder, spot.part):
            in_order.insert(0, spot)
    return tuple(distinct(in_order, lambda one, other: dice_in_window(one.part, other.part), MAX_CANDIDATES))


def seen_alike(one: Candidate, other: Candidate) -> float:
    """DSC of two masks, also of two windows."""
    fine, wide = sorted((one.part, other.part), key=lambda part: part.window.spacing_mm)
    both = replace(fine, logits=torch.minimum(fine.logits, resample_logits(wide, fine.window)))
    return 2 * both.volume_ml / (fine.volume_ml + wide.volume_ml)


def outlined(
    decoder: WindowDecoder, parts: list[WindowLogits], points: list[PointMM], scales: Scales
) -> list[list[Candidate]]:
    """Of each mask what it is in the window that fits it, and what it becomes while the network prompts itself there.

    A click beside the middle of something large shows a network the near part of it; one in the middle of that part
    shows it more. So the network clicks in its own mask, where that is deep and far from every click, as long as a mask
    gets larger by much and is worth more: what only creeps is a leak. These clicks are not the user's: no later prompt
    is decoded with them.
    """
    for _ in range(2):
        parts = distinct(follow_all(decoder, parts, points, scales), dice_in_window, len(parts))
    answers: list[list[Candidate]] = [[] for _ in parts]
    growing = dict(enumerate(parts))
    for _ in range(1 + SELF_PROMPTS):
        rated = zip(growing, decoder.rated([*growing.values()], points), strict=True)
        growing = {}
        for number, (part, iou) in rated:
            part = clicked_part(part, points)
            one, known = answer(decoder, part, iou), answers[number]
            if not known or (
                one.worth > known[-1].worth and part.volume_ml >= GROWS * known[-1].part.volume_ml
            ):
                known.append(one)
                growing[number] = with_own_click(part, points)
        if not growing:
            break
    return answers


def answer(decoder: WindowDecoder, part: WindowLogits, iou: float) -> Candidate:
    """A mask and what it is worth."""
    quality = iou if decoder.has_readings else None
    sure = 1.0 if quality is None else max(quality, 0.0) ** SURE
    return Candidate(replace(part, seeds_mm=()), quality, edge_of(decoder, part) * part.volume_ml**LARGER * sure)


def with_own_click(part: WindowLogits, points: list[PointMM]) -> WindowLogits:
    """The window with a seed in its mask, where depth times distance to the nearest click or seed is largest."""
    mask = part.mask
    box = bounding_box(mask)
    if box is None:
        return part
    shown_mm = np.array([*part.foreground_in(points), *part.seeds_mm])
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1, 1:-1]
    voxels_mm = apply_affine(part.affine, np.argwhere(mask))
    distance_mm, _ = KDTree(shown_mm).query(voxels_mm)
    x, y, z = voxels_mm[np.argmax(distance_mm * depth[mask[box]])].tolist()
    return replace(part, seeds_mm=(*part.seeds_mm, (x, y, z)))


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


def reached(
    decoder: WindowDecoder, parts: tuple[WindowLogits, ...], new_mm: list[np.ndarray], points: list[PointMM],
    scales: Scales,
) -> tuple[WindowLogits, ...]:  # fmt: skip
    """The windows of an object with one that holds a further foreground prompt, which lies in none of them.

    Who prompts far beside a small first answer may mean something large, or one more small thing. So a window that
    holds all foreground prompts is seen as if nothing were known, and takes the place of a single fine one if there
    its mask has one piece at them, and what lies between them looks like them; else another window is opened at the
    prompt.

    Args:
        decoder: The network at work.
        parts: The windows.
        new_mm: Positions of the prompt.
        points: All prompts so far.
        scales: The voxel sizes that windows may have.
    """
    nearest = min(parts, key=lambda part: np.linalg.norm(part.window.centre_mm - new_mm[0]))
    clicked_mm = [mm for mm, foreground in points if foreground]
    low, high = mask_extent_mm(nearest, clicked_mm)
    wide = decoder.window((low + high) / 2, ladder(float((high - low).max()) / (EXTENT * nearest.window.size), scales))
    is_fine = len(parts) == 1 and nearest.window.spacing_mm < scales.own
    if is_fine and all(wide.contains_mm(mm) for mm in clicked_mm):
        whole = decoder.decode(decoder.blank(wide), points)
        if pieces_at(whole, clicked_mm) == 1 and looks_alike_between(decoder, wide, clicked_mm[0], new_mm[0]):
            return (whole,)
    beside = decoder.window(new_mm[0], nearest.window.spacing_mm)
    return (*parts, WindowLogits(beside, resample_logits(nearest, beside)))


def may_be_one(
    decoder: WindowDecoder, part: WindowLogits, clicked_mm: list[np.ndarray], new_mm: list[np.ndarray]
) -> bool:
    """Whether what was prompted in a window may be one thing; several small ones need no coarser window than each."""
    return pieces_at(part, clicked_mm) <= 1 or looks_alike_between(decoder, part.window, clicked_mm[0], new_mm[0])


def looks_alike_between(decoder: WindowDecoder, window: Window, one_mm: np.ndarray, other_mm: np.ndarray) -> bool:
    """Whether uptake on the way between two positions in a window is neither half nor twice that at either."""
    uptake = decoder.uptake(window)
    way_mm = one_mm + np.linspace(0, 1, 2 * len(uptake))[:, None] * (other_mm - one_mm)
    voxels = (way_mm - np.array(window.grid_affine(len(uptake))[:3, 3])) / window.side_mm * len(uptake)
    along = ndimage.map_coordinates(uptake, voxels.T, order=1, mode="nearest")
    return bool(along.min() >= max(along[[0, -1]]) / ALIKE and along.max() <= min(along[[0, -1]]) * ALIKE)


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


def edge_of(decoder: WindowDecoder, part: WindowLogits) -> float:
    """How clearly the mask of a window stands out: mean difference, in log(1 + SUV), of voxels just outside to it."""
    mask = part.mask
    box = bounding_box(mask)
    if box is None:
        return 0.0
    box = widen_box(box, (2, 2, 2), mask.shape)  # further away nothing matters
    return edge(mask[box], np.log1p(decoder.uptake(part.window)[box]))


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
