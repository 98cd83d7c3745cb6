"""What prompts tell a 2D network: for each slice that they touch, points and perhaps a box.

    Click              a point in its slice
    Scribble           in each slice that it crosses, at most eight of its voxels there
    positive Box       a box in each slice that it crosses
    positive Lasso     the box around it
    negative ones      a background point in the middle of what they take away

A box or lasso is cut by every slice that it crosses, whichever way it was drawn. Where that leaves less than two pixels
in a direction, a point in its middle stands for it. So it does for a network without boxes, with the region as the mask
before if the network takes masks: with `tiny-2d` that draws an organ better than the point alone (mean DSC 0.80 for
0.72 in 60 slices of phantoms), a lesion equally well. What a prompt settles beyond that, `Prompt.constrain` writes into
the mask.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seganypet.pet.views import VIEWS, ras_axes
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Box, Lasso, Prompt
from seganypet.prompting.shapes import MAX_POINTS
from seganypet.regions import deepest_voxel


class SlicePosition(NamedTuple):
    """A voxel in the stack of `slicewise.slices_of`: number of the slice, row and column."""

    number: int
    row: int
    column: int


SlicePoints = tuple[tuple[SlicePosition, bool], ...]  # oldest first, and whether they are foreground
SliceBox = tuple[int, int, int, int]  # first column, first row, last column, last row; all inside


@dataclass(frozen=True)
class SliceCue:
    """What the network is told of one slice.

    Attributes:
        points: Points, oldest first.
        box: The box that counts; None: none.
    """

    points: SlicePoints = ()
    box: SliceBox | None = None

    def __add__(self, newer: "SliceCue") -> "SliceCue":
        """Both, the newer one's box instead of the older one's."""
        return SliceCue(self.points + newer.points, newer.box or self.box)


def slice_positions(voxels: np.ndarray, volume: Volume, axis: str) -> np.ndarray:
    """Where voxels lie in the stack of `slicewise.slices_of`.

    Args:
        voxels: Voxels of the volume, (n, 3) int.
        volume: Volume whose grid is used.
        axis: Direction of the slices, a key of `views.VIEWS`.

    Returns:
        Slice, row and column of each, (n, 3) int.
    """
    ras, last = np.empty_like(voxels), np.empty(3, int)
    for index, (across, sign) in enumerate(ras_axes(volume)):
        last[across] = volume.shape[index] - 1
        ras[:, across] = voxels[:, index] if sign > 0 else last[across] - voxels[:, index]
    view = VIEWS[axis]
    return np.stack([ras[:, view.through], *((last - ras)[:, [view.up, view.across]].T)], axis=1)


def cues_of(
    prompt: Prompt, volume: Volume, axis: str, *, boxes: bool, masks: Mapping[int, np.ndarray]
) -> dict[int, SliceCue]:
    """What a prompt tells the network, by number of the slice.

    Args:
        prompt: The prompt, in the volume.
        volume: Volume whose grid is used.
        axis: Direction of the slices.
        boxes: Whether the network takes boxes.
        masks: The object's mask so far, (rows, columns) bool, in each slice where it has one.

    Returns:
        Cues of the slices that it crosses; of a negative box or lasso, of those where it takes something away.
    """
    if not isinstance(prompt, Box | Lasso):
        return _cues_of_voxels(prompt, slice_positions(prompt.voxels, volume, axis))
    cues = {}
    for number, row, column, section in sections_of(prompt, volume, axis):
        rows, columns = section.shape
        if not prompt.foreground:
            if number not in masks:
                continue
            section = section & masks[number][row : row + rows, column : column + columns]
            if not section.any():
                continue
        if prompt.foreground and boxes and min(rows, columns) > 1:
            cues[number] = SliceCue(box=(column, row, column + columns - 1, row + rows - 1))
        else:
            down, right = deepest_voxel(section, (1, 1))
            cues[number] = SliceCue(((SlicePosition(number, row + down, column + right), prompt.foreground),))
    return cues


def numbers_of(prompt: Prompt, volume: Volume, axis: str) -> set[int]:
    """Numbers of the slices that a prompt crosses."""
    voxels = np.array([prompt.low_ijk, prompt.high_ijk]) if isinstance(prompt, Box) else prompt.voxels
    numbers = slice_positions(voxels, volume, axis)[:, 0]
    return set(range(numbers.min(), numbers.max() + 1)) if isinstance(prompt, Box) else set(numbers.tolist())


def cue_of_mask(mask: np.ndarray, number: int, *, boxes: bool) -> SliceCue:
    """The cue that stands for a mask, (rows, columns) bool, not empty: its box, or its deepest pixel."""
    if boxes:
        (first_row, last_row), (first, last) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0))
        return SliceCue(box=(first, first_row, last, last_row))
    return SliceCue(((SlicePosition(number, *deepest_voxel(mask, (1, 1))), True),))


def _cues_of_voxels(prompt: Prompt, positions: np.ndarray) -> dict[int, SliceCue]:
    cues = {}
    for number in dict.fromkeys(positions[:, 0].tolist()):
        inside = positions[positions[:, 0] == number]
        evenly = np.unique(np.linspace(0, len(inside) - 1, min(len(inside), MAX_POINTS)).round().astype(int))
        cues[number] = SliceCue(tuple((SlicePosition(*place), prompt.foreground) for place in inside[evenly].tolist()))
    return cues


def sections_of(prompt: Box | Lasso, volume: Volume, axis: str) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """What a region is in each slice that it crosses: number, first row, first column, and what is inside, from there.
    """
    if isinstance(prompt, Box):
        corners = slice_positions(np.array([prompt.low_ijk, prompt.high_ijk]), volume, axis)
        (first, row, column), (numbers, *shape) = corners.min(0).tolist(), (np.ptp(corners, 0) + 1).tolist()
        for number in range(first, first + numbers):
            yield number, row, column, np.ones(shape, bool)
        return
    positions = slice_positions(prompt.voxels, volume, axis)
    for number in np.unique(positions[:, 0]).tolist():
        pixels = positions[positions[:, 0] == number, 1:]
        row, column = pixels.min(0).tolist()
        section = np.zeros(np.ptp(pixels, 0) + 1, bool)
        section[tuple((pixels - (row, column)).T)] = True
        yield number, row, column, section
