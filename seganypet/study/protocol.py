"""How a simulated user prompts: click, look at the mask, click again; one row after each round.

Two protocols, by name.

"whole_volume", ours: a session sees the whole scan. `metrics.METRICS` are taken after every click, over the whole
volume, of the mask as it then is.

"release", what the public releases of SAM-Med3D and SegAnyPET did in their older evaluation: for each target the scan
is cut to a window centred on the centre of the TRUTH's bounding box, the first click goes at random into the truth,
later ones at random into the error; metrics are taken inside this window, and after each click the best so far counts,
by DSC. It flatters in four ways: the network knows where the target is, and never sees one off centre; the part of a
target outside the window is not missed; a leak beyond the window does not count; and a mask that later clicks spoil
keeps its best score. The window is the network's own (voxels times spacing), or 192 mm (128 voxels of 1.5 mm) for what
has none, along the scan's own axes and with 0 beyond the scan. Resampling and intensities remain the network's.

A slicewise session has `click_slices(clicks) -> mask` beside `reset`, and `axis`, a key of `views.VIEWS`. It gets one
click on each slice that holds the target in the first round, then one on each such slice whose mask is wrong; it
remembers the clicks of earlier rounds. Which slices hold the target only an oracle knows, which 3D networks lack.

The first prompt may be of another kind (`simulate_shapes`): a scribble, box or lasso in one axial slice (of a slicewise
session: in each), a 3D box, or a mask to start from. Later rounds correct by clicks or scribbles.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from seganypet.comparison import Target
from seganypet.errors import GeometryError, SegAnyPETError
from seganypet.metrics import METRICS, dice, scores_of
from seganypet.pet.views import VIEWS, ras_axes
from seganypet.pet.volume import Volume
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompts import Click, Prompt
from seganypet.prompting.simulate import FIRST, THEN, shifted
from seganypet.prompting.simulate_shapes import (
    CORRECTIONS,
    FIRST_PROMPTS,
    first_prompt,
    first_prompts_by_slice,
    next_prompt,
    next_prompts_by_slice,
)
from seganypet.regions import bounding_box, enclosing_box

PROTOCOLS = ("whole_volume", "release")
RELEASE_WINDOW_MM = 192.0


@dataclass(frozen=True)
class ClickProtocol:
    """How targets are clicked and scored.

    Attributes:
        clicks: Number of rounds.
        protocol: One of `PROTOCOLS`.
        first: Strategy of the first click, see `simulate.first_click`; None: the protocol's.
        then: Strategy of later clicks, see `simulate.next_click`; None: the protocol's.
        seed: Seed of random clicks, and of a simulated mask.
        prompt: Kind of the first prompt, one of `simulate_shapes.FIRST_PROMPTS`.
        correction: Kind of later ones, "click" or "scribble"; None: scribbles after a scribble, else clicks.

    Raises:
        SegAnyPETError: No rounds, an unknown protocol, strategy or kind, or a combination that has no meaning.
    """

    clicks: int = 5
    protocol: str = "whole_volume"
    first: str | None = None
    then: str | None = None
    seed: int = 0
    prompt: str = "click"
    correction: str | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise SegAnyPETError(f"seed={self.seed}; expected 0 or more.")
        if self.protocol not in PROTOCOLS:
            raise SegAnyPETError(f"protocol={self.protocol!r}; expected one of {', '.join(PROTOCOLS)}.")
        released = self.protocol == "release"
        object.__setattr__(self, "first", self.first or ("random" if released else "deepest"))
        object.__setattr__(self, "then", self.then or ("random_error" if released else "largest_error"))
        if self.clicks < 1 or self.first not in FIRST or self.then not in THEN:
            raise SegAnyPETError(
                f"clicks={self.clicks}, first={self.first!r}, then={self.then!r}: expected at least one click, first "
                f"one of {FIRST} and then one of {THEN}."
            )
        correction = "scribble" if self.prompt == "scribble" else "click"
        object.__setattr__(self, "correction", self.correction or correction)
        kinds = f"prompt={self.prompt!r}, correction={self.correction!r}"
        if self.prompt not in FIRST_PROMPTS or self.correction not in CORRECTIONS:
            raise SegAnyPETError(
                f"{kinds}; expected prompt to be one of {FIRST_PROMPTS} and correction one of {CORRECTIONS}."
            )
        drawn_at_random = (self.prompt != "click" and self.first == "random") or (
            self.correction != "click" and self.then == "random_error"
        )
        if drawn_at_random or (released and (self.prompt, self.correction) != ("click", "click")):
            raise SegAnyPETError(
                f"{kinds}, first={self.first!r}, then={self.then!r}, protocol={self.protocol!r}: only clicks are made "
                "at random, and the protocol 'release' knows nothing but clicks."
            )

    @property
    def label(self) -> str:
        """What the column `protocol` says: "deepest, largest_error" or whichever clicks; "release" before its own.

        Another kind of prompt stands for its strategy: "box, largest_error"; "scribble, largest_error by scribble".
        """
        first = self.first if self.prompt == "click" else self.prompt
        clicks = f"{first}, {self.then}" + ("" if self.correction == "click" else f" by {self.correction}")
        return f"release: {clicks}" if self.protocol == "release" else clicks

    @classmethod
    def from_label(cls, label: str, clicks: int, seed: int) -> "ClickProtocol":
        """The protocol of a column `protocol`.

        Raises:
            SegAnyPETError: Not a label of a protocol.

        >>> ClickProtocol.from_label("box, largest_error by scribble", 3, seed=0).label
        'box, largest_error by scribble'
        """
        start, released, strategies = label.rpartition("release: ")
        first, _, then = strategies.partition(", ")
        then, _, correction = then.partition(" by ")
        if start or not (first and then):
            raise SegAnyPETError(f"protocol={label!r}; expected one as in the tables of evaluate.")
        prompt = first if first in FIRST_PROMPTS else "click"
        return cls(
            clicks, "release" if released else "whole_volume", first if prompt == "click" else None, then, seed, prompt,
            correction or "click",
        )  # fmt: skip


def segment_target(
    method: Any, session: Any, truth: np.ndarray, pet: Volume, protocol: ClickProtocol, rng: np.random.Generator,
    keep: Callable[[np.ndarray], object] = lambda mask: None, target: Target | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The rounds of one target by either protocol.

    Args:
        method: Opens a session on the window of the protocol "release", see `methods.Method`.
        session: Session of that method on the scan; it is reset.
        truth: True inside the target, shape of `pet`, bool.
        pet: The scan.
        protocol: How clicks are simulated.
        rng: Source of random clicks.
        keep: Called with the mask of each round, bool, shape of the scan.
        target: What masks are compared with in the scan, if another method was compared with it before.

    Yields:
        Rows as `simulate_clicks` yields them, in voxels of the scan.
    """
    if protocol.protocol != "release" or not truth.any():
        session.reset()
        yield from simulate_clicks(session, truth, pet, protocol, rng, keep, target)
        return

    def keep_in_scan(inside: np.ndarray) -> None:
        mask = np.zeros(pet.shape, bool)
        there, here = overlap(corner, inside.shape, pet.shape)
        mask[there] = inside[here]
        keep(mask)

    window, truth, corner = release_window(pet, truth, _window_mm(session))
    best: dict[str, float] = {"dsc": -1.0}
    for row in simulate_clicks(method.open(window), truth, window, protocol, rng, keep_in_scan):
        best = max(best, {name: row[name] for name in METRICS}, key=lambda scores: scores["dsc"])
        for axis, first in zip(("click_i", "click_j", "click_k"), corner, strict=True):
            if axis in row:
                row[axis] += first
        yield row | best


def simulate_clicks(
    session: Any, truth: np.ndarray, volume: Volume, protocol: ClickProtocol, rng: np.random.Generator,
    keep: Callable[[np.ndarray], object] = lambda mask: None, target: Target | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Click on one target, look at the mask, and click again.

    Args:
        session: Session on `volume`, without clicks.
        truth: True inside the target, shape of `volume`, bool. If it is empty, nothing is clicked or scored.
        volume: The scan; it gives the grid.
        protocol: Strategies and number of clicks.
        rng: Source of random clicks.
        keep: Called with the mask of each round, bool, shape of `volume`.
        target: What masks are compared with; made of `truth` if it is not given.

    Yields:
        One row for each round; `evaluation.COLUMNS` says what its columns mean.
    """
    spacing = volume.spacing
    per_slice = hasattr(session, "click_slices")
    axis = array_axis(session.axis if per_slice else "axial", volume)
    fixed: dict[str, Any] = {"nsd_tolerance_mm": max(spacing), "per_slice": per_slice}
    if per_slice:
        fixed["slices"] = np.count_nonzero(truth.any(axis=tuple({0, 1, 2} - {axis})))
    # No error and no surface lies beyond the box that holds truth and mask: clicks and scores are the same inside it.
    target = Target(truth, spacing) if target is None else target
    box = truth_box = target.box
    mask, digest, scores, total_clicks, model_seconds = None, b"", {}, 0, 0.0
    for number in range(1, protocol.clicks + 1):
        in_slices = per_slice and (number > 1 or protocol.prompt not in ("box3d", "mask"))
        row: dict[str, Any] = {"click": number, "prompt": prompt_name(number, in_slices)} | fixed
        prompts: list[Prompt] = []
        if truth_box is not None:
            kind = protocol.correction if number > 1 else protocol.prompt
            here = box if kind == "click" else (slice(None),) * 3  # shapes may reach beyond truth and mask
            found = None if mask is None else mask[here]
            find = partial(_next_prompts, found, truth[here], kind, spacing, axis, in_slices, protocol, rng)
            if kind != "click":
                prompts = find()
            else:
                strategy = protocol.first if mask is None else protocol.then
                clicks = find() if "random" in strategy else target.once(("clicks", in_slices, digest), find)
                prompts = [_in_volume(click, box) for click in clicks]
        if prompts:
            start = time.perf_counter()
            if in_slices:
                mask = session.click_slices(prompts)
            elif isinstance(prompts[0], Click):
                mask = session.click(ijk=prompts[0].ijk, foreground=prompts[0].foreground)
            else:
                mask = session.add(prompts[0])
            row["seconds"] = time.perf_counter() - start
            mask = np.asarray(mask, bool)
            if mask.shape != truth.shape:
                raise GeometryError(f"a session on a volume of shape {truth.shape} gave a mask of shape {mask.shape}.")
            keep(mask)
            total_clicks += len(prompts)
            model_seconds += row["seconds"]
            row |= {"prompt_kind": kind, "notice": getattr(session, "notice", "")}
            row["disobeyed"] = sum(not prompt.obeyed_by(mask) for prompt in prompts)
            if not in_slices:
                row |= dict(zip(("click_i", "click_j", "click_k"), prompts[0].centre_ijk, strict=True))
                row["foreground"] = prompts[0].foreground
            packed = PackedMask.of(mask)
            box, digest = enclosing_box([truth_box, packed.box if packed else truth_box]), packed.digest
            scores = target.once(("scores", digest), partial(scores_of, mask, target))  # rules often agree
            if number == 1:
                others = [dice(reading.mask, truth) for reading in getattr(session, "readings", ())[1:]]
                row["best_of_three_dsc"] = max([scores["dsc"], *others])
        yield row | scores | {"total_clicks": total_clicks, "model_seconds": model_seconds}


def _next_prompts(
    mask: np.ndarray | None, truth: np.ndarray, kind: str, spacing: Sequence[float], axis: int, in_slices: bool,
    protocol: ClickProtocol, rng: np.random.Generator,
) -> list[Prompt]:  # fmt: skip
    """One prompt in the volume, or one in each slice along an axis; none where nothing is wrong."""
    first, then = protocol.first, protocol.then
    if in_slices:
        if mask is None:
            return first_prompts_by_slice(truth, kind, axis, spacing, first, rng=rng)
        return next_prompts_by_slice(truth, mask, kind, axis, spacing, then, rng=rng)
    if mask is None:
        return [first_prompt(truth, kind, spacing=spacing, axis_of_array=axis, strategy=first, rng=rng)]
    prompt = next_prompt(truth, mask, kind, spacing=spacing, axis_of_array=axis, strategy=then, rng=rng)
    return [] if prompt is None else [prompt]


def _in_volume(click: Prompt, box: Sequence[slice]) -> Click:
    """A click in a box of the volume as one in the volume."""
    return Click(shifted(click.centre_ijk, box), click.foreground)


def array_axis(name: str, volume: Volume) -> int:
    """Axis of the volume's array along which slices of a view follow each other.

    Raises:
        SegAnyPETError: No such view.
    """
    if name not in VIEWS:
        raise SegAnyPETError(f"axis={name!r}; expected one of {', '.join(VIEWS)}.")
    return [axis for axis, _ in ras_axes(volume)].index(VIEWS[name].through)


def release_window(pet: Volume, truth: np.ndarray, window_mm: float) -> tuple[Volume, np.ndarray, tuple[int, int, int]]:
    """The window of the protocol "release".

    Args:
        pet: The scan.
        truth: True inside the target, shape of `pet`, bool, not empty.
        window_mm: Side of the window, in mm.

    Returns:
        Scan and truth inside the window, 0 and False beyond the scan; and its first voxel in `pet`, which may be
        negative. No more voxels than fit into the side, so that a network's window of that side is centred on them.
    """
    box = bounding_box(truth)
    size = np.maximum(np.floor(window_mm / np.array(pet.spacing) + 1e-6), 1).astype(int)
    centre = np.array([(part.start + part.stop) / 2 for part in box])
    low = np.floor(centre - size / 2 + 0.5).astype(int)
    inside, there = overlap(low, size, pet.shape)
    data, cut = np.zeros(size, np.float32), np.zeros(size, bool)
    data[there], cut[there] = pet.data[inside], truth[inside]
    affine = pet.affine.copy()
    affine[:3, 3] = pet.to_mm(low)
    window = Volume(data, affine, pet.unit, source=f"{pet.source}, window on the truth", metadata=pet.metadata)
    return window, cut, (int(low[0]), int(low[1]), int(low[2]))


def overlap(
    corner: Iterable[int], size: Iterable[int], shape: Iterable[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a box that may reach beyond a scan lies in it, and where that part lies in the box.

    >>> overlap((-2, 3), (5, 5), (10, 6))
    ((slice(0, 3, None), slice(3, 6, None)), (slice(2, 5, None), slice(0, 3, None)))
    """
    axes = [(int(low), int(low) + int(side), int(end)) for low, side, end in zip(corner, size, shape, strict=True)]
    inside = tuple(slice(max(low, 0), min(high, end)) for low, high, end in axes)
    there = tuple(slice(part.start - low, part.stop - low) for part, (low, _, _) in zip(inside, axes, strict=True))
    return inside, there


def _window_mm(session: Any) -> float:
    if hasattr(session, "click_slices"):
        raise SegAnyPETError(
            "the protocol 'release' is one of 3D windows; evaluate a slicewise model by 'whole_volume'."
        )
    config = getattr(getattr(session, "model", None), "config", None)
    if config is None or not hasattr(config, "window_size"):
        return RELEASE_WINDOW_MM
    fixed_mm = getattr(session, "spacing_mm", None)
    return config.window_size * (config.spacing_mm if fixed_mm is None else fixed_mm)


def prompt_name(number: int, per_slice: bool) -> str:
    """A round as tables have it: "1", "2", "3", or "N", "2N", "3N" where each slice is clicked."""
    if not per_slice:
        return str(number)
    return "N" if number == 1 else f"{number}N"
