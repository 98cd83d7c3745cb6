"""Click files of the autoPET challenges: all clicks on a scan, given before anything is segmented.

Two forms are in use, both in JSON and both in voxels of the file's array, (i, j, k) as nibabel reads it:

    {"tumor": [[97, 80, 210], ...], "background": [[...], ...]}                                  "lists"
    {"version": {...}, "type": "Multiple points", "points": [{"point": [97, 80, 210], "name": "tumor"}, ...]}  "points"

Source: the data and code of autoPET IV (interactive), and grand-challenge.org's format of points.
"""

import json
import os
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from seganypet._files import as_path, read_json, replace_atomically
from seganypet.errors import ClickError, GeometryError, shown
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Voxel, click_at
from seganypet.prompting.simulate import shifted
from seganypet.regions import CONNECTED_6, CONNECTED_26, bounding_box, deepest_voxel

FORMS = ("lists", "points")
HOT_PERCENTILE = 99.75  # of what is no tumour: background clicks go to the voxels from here on


class AutoPETClicks(NamedTuple):
    """Voxels (i, j, k) clicked in tumour and in background, in the order in which they are given."""

    tumor: tuple[Voxel, ...]
    background: tuple[Voxel, ...] = ()


def read_autopet_clicks(path: str | os.PathLike, volume: Volume | None = None) -> AutoPETClicks:
    """Read a click file, in either form.

    Args:
        path: Path of the JSON file.
        volume: Scan that was clicked, on the grid of its file; every click must lie in it.

    Raises:
        ClickError: No such file, not JSON, neither form, a click of another kind than tumor and background, one that
            is not three whole numbers from 0 on, or one outside `volume`.
    """
    path = as_path(path)
    content = read_json(path, ClickError, "click file")
    if isinstance(content, dict) and isinstance(content.get("points"), list):
        named = [(_entry(path, point, "name"), _entry(path, point, "point")) for point in content["points"]]
    elif isinstance(content, dict) and any(isinstance(content.get(kind), list) for kind in AutoPETClicks._fields):
        named = [(kind, point) for kind, listed in content.items() for point in _list(path, listed, kind)]
    else:
        raise ClickError(
            f'{path}: no click file of autoPET; expected {{"tumor": [[i, j, k], ...], "background": [...]}}, or '
            '{"type": "Multiple points", "points": [{"point": [i, j, k], "name": "tumor"}, ...]}.'
        )
    strange = sorted({str(kind) for kind, _ in named} - {*AutoPETClicks._fields})
    if strange:
        raise ClickError(f"{path}: clicks named {', '.join(strange)}; expected tumor and background.")
    voxels = [(kind, _voxel(path, point, volume)) for kind, point in named]
    return AutoPETClicks(*(tuple(ijk for owner, ijk in voxels if owner == kind) for kind in AutoPETClicks._fields))


def write_autopet_clicks(path: str | os.PathLike, clicks: AutoPETClicks, form: str = "lists") -> None:
    """Write a click file, whole or not at all.

    Raises:
        ClickError: An unknown form; a click that is no voxel.
        SegAnyPETError: The file cannot be written.
    """
    if form not in FORMS:
        raise ClickError(f"form={form!r}; expected one of {', '.join(FORMS)}.")
    lists = {
        kind: [list(_voxel(as_path(path), ijk)) for ijk in voxels] for kind, voxels in clicks._asdict().items()
    }  # fmt: skip
    content = lists if form == "lists" else {
        "version": {"major": 1, "minor": 0},
        "type": "Multiple points",
        "points": [{"point": ijk, "name": kind} for kind, voxels in lists.items() for ijk in voxels],
    }  # fmt: skip
    with replace_atomically(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def simulate_autopet_clicks(truth: np.ndarray, volume: Volume, count: int = 10, seed: int = 0) -> AutoPETClicks:
    """Clicks as the challenge makes them for cases that come without.

    Tumour: the deepest voxel (as in `first_click`) of up to `count` lesions (26-connected), drawn by chance; if there
    are fewer lesions, then voxels at their borders. Background: the same in the pieces of what is hot and no tumour,
    which are the voxels from the 99.75th percentile of all that is no tumour on.

    Args:
        truth: All lesions, bool, shape (I, J, K). Empty: there are background clicks only.
        volume: PET, in any unit.
        count: Number of clicks of each kind.
        seed: Seed of the random draws.

    Raises:
        GeometryError: A truth of another shape, or not bool.
        ClickError: `count` is no whole number from 0 on.
    """
    truth = np.asarray(truth)
    if truth.shape != volume.shape or truth.dtype != bool:
        raise GeometryError(
            f"{volume.source}: truth is {truth.dtype} of shape {truth.shape}; expected bool of shape {volume.shape}."
        )
    if not isinstance(count, int) or count < 0:
        raise ClickError(f"count={count!r}; expected a whole number of 0 or more.")
    rng = np.random.default_rng(seed)
    elsewhere = volume.data[~truth]
    hot = ~truth & (volume.data >= np.percentile(elsewhere, HOT_PERCENTILE)) if elsewhere.size else ~truth
    return AutoPETClicks(*(_scattered(region, volume, count, rng) for region in (truth, hot)))


def _scattered(region: np.ndarray, volume: Volume, count: int, rng: np.random.Generator) -> tuple[Voxel, ...]:
    """Deepest voxels of pieces of a region, drawn by chance, then voxels at the pieces' borders."""
    box = bounding_box(region)
    if box is None:
        return ()
    pieces, number = ndimage.label(region[box], CONNECTED_26)
    boxes = ndimage.find_objects(pieces)
    chosen = rng.permutation(number)[:count]
    voxels = [shifted(deepest_voxel(pieces[boxes[one]] == one + 1, volume.spacing), boxes[one]) for one in chosen]
    border = np.argwhere(region[box] & ~ndimage.binary_erosion(region[box], CONNECTED_6))
    voxels += [tuple(border[one].tolist()) for one in rng.choice(len(border), count - len(voxels))]
    return tuple(shifted(voxel, box) for voxel in voxels)


def _entry(path: Path, point: Any, key: str) -> Any:
    if not isinstance(point, dict) or key not in point:
        raise ClickError(f'{path}: {shown(point)} is no point; expected {{"point": [i, j, k], "name": "tumor"}}.')
    return point[key]


def _list(path: Path, points: Any, kind: str) -> list:
    if not isinstance(points, list):
        raise ClickError(f"{path}: {kind} holds {shown(points)}; expected a list of [i, j, k].")
    return points


def _voxel(path: Path, point: Any, volume: Volume | None = None) -> Voxel:
    numbers = isinstance(point, Sequence | np.ndarray) and len(point) == 3 and all(
        isinstance(index, Real) and not isinstance(index, bool) for index in point
    )  # fmt: skip
    if not (numbers and all(0 <= index < np.inf and index == int(index) for index in point)):
        raise ClickError(f"{path}: {shown(point)} is no voxel; expected three whole numbers of 0 or more.")
    i, j, k = (int(index) for index in point)
    if volume is not None:
        try:
            click_at(volume, ijk=(i, j, k))
        except ClickError as error:
            raise ClickError(f"{path}: {error} Is this click file of another scan?") from error
    return i, j, k
