"""What a first prompt may mean: what the network sees around it, each answer in the window that fits it.

    first_look   a hot spot, what the network sees in a fine and in a wide window; the likeliest first
    outlined     how a mask becomes whole: the window follows it, and the network clicks in it
    going_on     the likeliest answer with clicks of the network beside it, where uptake goes on as it is inside

To a click beside the middle of something large a network answers with the near part of it. So it asks itself for more.

Ours, not published; the figures that chose these numbers are in benchmarks/sessions.md and benchmarks/pilots.md.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.spatial import KDTree

from seganypet.pet.volume import Point
from seganypet.prompting.binding import edge
from seganypet.prompting.hints import SPOT_ML, hot_region, is_nested, is_nested_spot
from seganypet.prompting.look import FINE, WIDE, Scales, clicked_part, follow, follow_all
from seganypet.prompting.readings import MAX_READINGS, distinct
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import PointMM, WindowLogits, dice_in_window, resample_logits
from seganypet.regions import bounding_box, widen_box

MAX_CANDIDATES = 6  # answers to a first prompt that are kept in mind
# Masks of the looks that are followed: as many of the likeliest, and as many that differ as there may be readings.
LIKELIEST, SAME_LOOK = 3, 0.7  # masks of two looks that agree better than this are one
LEAST_SPOT_ML = 1.0  # of a hot spot that comes first whatever surrounds it; smaller ones are noise as often as not
SELF_PROMPTS = 5  # clicks of the network in its own mask, at most
GROWS = 1.15  # times larger than before is a mask by such a click, or it was the last
GOES_ON = 4  # clicks of the network beside its own mask, at most
LEAST_ON_ML = 150.0  # of an answer that may go on: what is smaller may be a kidney, whole, beside a liver
OPEN = 0.13  # of what surrounds an answer that may go on has its uptake; less is where two organs touch
# What goes on is larger than the answer before by this, stands out more clearly by that, and holds so much of it:
CREEPS, CLEARER, KEEPS = 1.05, 1.2, 0.9
ALIKE_SPREADS, LEAST_SPREAD = 1.5, 0.03  # of log(1 + SUV) from its median inside, in robust standard deviations
THIN = 2.0  # voxels of the logits from what looks otherwise
# What a mask is worth: its edge, times these powers of its volume in mL, as a hot part of an organ has a clearer edge
# than the organ, and of its predicted IoU, where a network was trained to predict it.
LARGER, SURE = 0.1, 0.5


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
    in_order = [*going_on(decoder, in_order[0], clicked_mm, points, scales), *in_order]
    return tuple(distinct(in_order, lambda one, other: dice_in_window(one.part, other.part), MAX_CANDIDATES))


def seen_alike(one: Candidate, other: Candidate) -> float:
    """DSC of two masks, also of two windows."""
    return 2 * shared_ml(one.part, other.part) / (one.part.volume_ml + other.part.volume_ml)


def shared_ml(one: WindowLogits, other: WindowLogits) -> float:
    """Volume of what lies in both of two masks, also of two windows, in mL."""
    fine, wide = sorted((one, other), key=lambda part: part.window.spacing_mm)
    return replace(fine, logits=torch.minimum(fine.logits, resample_logits(wide, fine.window))).volume_ml


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


def going_on(
    decoder: WindowDecoder, found: Candidate, clicked_mm: np.ndarray, points: list[PointMM], scales: Scales
) -> list[Candidate]:
    """What an answer becomes by clicks of the network beside it, where uptake goes on as it is inside; else nothing.

    To a click near an end of something large a network answers with that end, which has no edge towards the rest. What
    comes instead is larger, stands out more clearly, and holds both the answer and the click.

    Args:
        decoder: The network at work.
        found: The likeliest answer to a first prompt.
        clicked_mm: Position of that prompt.
        points: That prompt as the network is shown it.
        scales: The voxel sizes that windows may have.
    """
    first = found
    for _ in range(GOES_ON):
        if found.part.volume_ml < LEAST_ON_ML or (beside_mm := deep_beside(decoder, found.part)) is None:
            break
        start = replace(found.part, seeds_mm=(*found.part.seeds_mm, beside_mm))
        (answers,) = outlined(decoder, [clicked_part(decoder.decode(start, points), points)], points, scales)
        larger = [
            one
            for one in answers
            if clearness(one) > CLEARER * clearness(found)
            and one.part.volume_ml > CREEPS * found.part.volume_ml
            and one.part.holds_mm(clicked_mm)
            and shared_ml(found.part, one.part) >= KEEPS * found.part.volume_ml
        ]
        if not larger:
            break
        found = max(larger, key=lambda one: one.worth)
    return [] if found is first else [found]


def clearness(found: Candidate) -> float:
    """What an answer is worth, however large it is."""
    return found.worth / found.part.volume_ml**LARGER


def deep_beside(decoder: WindowDecoder, part: WindowLogits) -> Point | None:
    """Position, in mm, deep in what touches a mask and has the uptake of its inside; None where that is thin.

    Also None where little of what surrounds the mask has that uptake, and where the mask is colder than the rest of it:
    borders of a lobe of a lung are not seen in PET.
    """
    mask, uptake = part.mask, ndimage.gaussian_filter(np.log1p(decoder.uptake(part.window)), 1.0)
    inner = ndimage.binary_erosion(mask)
    inside = uptake[inner if inner.any() else mask]
    middle = np.median(inside)
    spread = max(1.48 * float(np.median(np.abs(inside - middle))), LEAST_SPREAD)
    alike = (np.abs(uptake - middle) < ALIKE_SPREADS * spread) & ~mask
    shell = ndimage.binary_dilation(mask) & ~mask
    around = uptake[shell & ~alike]
    if (shell & alike).sum() < OPEN * shell.sum() or (around.size and np.median(around) > middle):
        return None
    pieces, _ = ndimage.label(alike)
    touching = np.unique(pieces[shell & alike])
    depth = ndimage.distance_transform_edt(np.isin(pieces, touching))
    if depth.max() < THIN:
        return None
    x, y, z = apply_affine(part.affine, np.unravel_index(depth.argmax(), depth.shape)).tolist()
    return x, y, z


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


def edge_of(decoder: WindowDecoder, part: WindowLogits) -> float:
    """How clearly the mask of a window stands out: mean difference, in log(1 + SUV), of voxels just outside to it."""
    mask = part.mask
    box = bounding_box(mask)
    if box is None:
        return 0.0
    box = widen_box(box, (2, 2, 2), mask.shape)  # further away nothing matters
    return edge(mask[box], np.log1p(decoder.uptake(part.window)[box]))
