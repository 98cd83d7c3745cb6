"""Where to look: the window that fits an object, found by the network itself.

    look_at_region   what a box or a lasso means
    follow       the window moves to where the object turned out to be, finer if it is small
    reached      a further prompt far away: one wide window if it means something large, else a second one
    cover        windows over a mask to start from

Whoever clicks knows neither the size of the object nor its middle; a window centred on a click beside the middle cuts
the object, and a network takes what it sees of it for the whole. So the window is centred on the mask found so far, and
decoded again with that mask as the logits of the step before. What a first prompt may mean is in first_prompt.py.

Ours, not published; the figures that chose these numbers are in benchmarks/sessions.md.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from seganypet.model.base import PromptableNetwork
from seganypet.prompting.hints import START_LOGIT
from seganypet.prompting.prompts import Box, InitialMask, Lasso
from seganypet.prompting.window import Window, resample
from seganypet.prompting.window_decoder import WindowDecoder
from seganypet.prompting.window_logits import (
    PointMM,
    WindowLogits,
    keep_clicked_components,
    mask_extent_mm,
    pieces_at,
    resample_logits,
    touched_faces,
)

FINEST_MM = 1.5
# Looks, in multiples of the network's own voxel size.
WIDE, FINE = 1.5, 0.5
EXTENT = 0.2  # of a window's side; what spans less is decoded in a finer window
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
        replace(part, window=window, logits=resample_logits(part, window))
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
