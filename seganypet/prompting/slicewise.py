"""Clicking with a 2D network, slice by slice, as SAM and MedSAM segment volumes.

    volume -> slices as a radiologist sees them, 8 bit -> embeddings       once for each slice that is needed
    clicks in a slice, its logits so far -> three masks -> the best one     at every click

A click acts on its own slice and on no other. Source: supplement B.3 and Fig. 4 (a).
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seganypet.errors import ClickError, JournalError, SegAnyPETError
from seganypet.model.checkpoints import weights_sha256
from seganypet.model.sam2d import EIGHT_BIT, Sam2D, best_of
from seganypet.pet.views import VIEWS, ijk_to_ras, ras_spacing, to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.base import MAX_OBJECTS, ClickSession, State
from seganypet.prompting.prompts import Click, Journal, click_at

WHITE_PERCENTILE = 99.5  # of a volume in Bq/mL, which has no usual window


class Place(NamedTuple):
    """A voxel in the stack of `slices_of`."""

    index: int
    row: int
    column: int


@dataclass(frozen=True, eq=False)
class SliceAnswer:
    """What the network said about one slice of an object.

    Attributes:
        clicks: Those in this slice, oldest first, and whether they are foreground.
        logits: Of the chosen mask, low resolution, (m, m) float16 on the CPU; fed back at the next click.
        mask: The same on the slice's own pixels, (rows, columns) bool.
    """

    clicks: tuple[tuple[Place, bool], ...]
    logits: Tensor
    mask: np.ndarray


class SliceSession(ClickSession):
    """One volume, one 2D network, and the clicks so far.

    In the slice of a click, all clicks of the active object go in, with the logits of the mask that was chosen there
    before; of the three masks that the network proposes, the one with the highest predicted IoU is chosen. The first
    click of an object in each slice must be foreground: a slice without one is empty, and nothing can be taken away.

    Args:
        model: From `load_model`; runs on whatever device it is on.
        volume: What to segment.
        axis: How it is cut: "axial", "coronal" or "sagittal". Pixels that are not square are made so by scaling.
        batch: Slices that go through the network together.
        window: Intensities that become 0 and 255, in the volume's unit. None: SUVbw 0 to 7, HU -160 to 240, Bq/mL 0
            to the 99.5th percentile of the volume.
        cache_mb: Bound of the embeddings kept on the model's device, in MiB; the one not used for longest goes first.
            A slice takes 2 MiB with SAM ViT-B to ViT-H, in float16.

    Attributes:
        seconds_embedding, seconds_decoding: Time spent so far on embeddings, and on clicks after that.

    Raises:
        SegAnyPETError: These are not a 2D network and a volume.
        ClickError: `axis`, `batch`, `window` or `cache_mb` make no sense.
    """

    def __init__(
        self,
        model: Sam2D,
        volume: Volume,
        *,
        axis: str = "axial",
        batch: int = 8,
        window: Sequence[float] | None = None,
        cache_mb: float = 1024,
    ):
        if not isinstance(model, Sam2D) or not isinstance(volume, Volume):
            raise SegAnyPETError(
                "SliceSession(model, volume) needs a 2D network, such as load_model('tiny-2d'), and a volume; got "
                f"{type(model).__name__} and {type(volume).__name__}. 3D networks go into Session."
            )
        if axis not in VIEWS:
            raise ClickError(f"axis={axis!r}; expected one of {', '.join(VIEWS)}.")
        if not (isinstance(batch, int) and batch > 0 and isinstance(cache_mb, Real) and cache_mb > 0):
            raise ClickError(f"batch={batch!r}, cache_mb={cache_mb!r}; expected a whole number and a size above 0.")
        super().__init__(volume)
        self.model, self.axis, self.batch, self.cache_mb = model, axis, batch, cache_mb
        self.window = usual_eight_bit(volume) if window is None else _checked_window(window)
        self.device = next(model.parameters()).device
        self.seconds_embedding = self.seconds_decoding = 0.0
        self._slices = slices_of(to_eight_bit(volume.data, self.window), volume, axis)  # (n, rows, columns)
        spacing, view = ras_spacing(volume), VIEWS[axis]
        self._pixel_mm = spacing[view.up], spacing[view.across]
        self._embeddings: dict[int, Tensor] = {}  # the one used last at the end

    @property
    def slice_count(self) -> int:
        """Number of slices along the axis."""
        return len(self._slices)

    def place_of(self, ijk: Sequence[int]) -> Place:
        """Slice, row and column of a voxel of the volume; ClickError if it lies outside."""
        view, ras = VIEWS[self.axis], ijk_to_ras(ijk, self.volume)
        rows, columns = self._slices.shape[1:]
        return Place(ras[view.through], rows - 1 - ras[view.up], columns - 1 - ras[view.across])

    def click_slices(self, clicks: Sequence[Click]) -> np.ndarray:
        """One click in each of many slices, decoded in batches, as one step for undo.

        The mask is that of the same clicks one by one, up to rounding: a batch adds in another order, so a pixel may
        differ whose logit is all but 0. The journal holds the clicks one by one.

        Args:
            clicks: On the active object, in any order, no two in one slice.

        Returns:
            Mask of the active object on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: No click, two in one slice, one outside the volume, or the first one of a slice is not
                foreground. The session is then as it was before.
        """
        new = tuple(click_at(self.volume, click.ijk, foreground=click.foreground) for click in clicks)
        count = len({self.place_of(click.ijk).index for click in new})
        if not new or count < len(new):
            raise ClickError(
                f"{len(new)} clicks in {count} {self.axis} slices; expected at least one, and one a slice. Give "
                "further clicks of a slice in another call, because each builds on the mask before."
            )
        name, state = self.active, self._state
        if name not in self.objects and len(self.objects) == MAX_OBJECTS:
            raise ClickError(f"{name}: a session holds {MAX_OBJECTS} objects, no more; save, then open a new one.")
        answer = self._draw(new, state.answers.get(name))
        made = (*state.clicks, *((name, click) for click in new))
        self._step(State(made, {**state.answers, name: answer}, name, changed=name))
        self._changed()
        return self.mask

    @torch.inference_mode()
    def embed_slices(self, indices: Iterable[int]) -> None:
        """Embed slices ahead of clicks, in batches; those that are known cost nothing.

        Raises:
            ClickError: There is no such slice.
        """
        wanted = list(dict.fromkeys(indices))
        if wrong := [index for index in wanted if not 0 <= index < self.slice_count]:
            raise ClickError(f"no {self.axis} slice {wrong[0]}; there are 0 to {self.slice_count - 1}.")
        missing = [index for index in wanted if index not in self._embeddings]
        for index in wanted:
            if index in self._embeddings:
                self._embeddings[index] = self._embeddings.pop(index)
        with self._timed("seconds_embedding"):
            for part in _parts(missing, self.batch):
                slices = torch.from_numpy(np.ascontiguousarray(self._slices[part])).to(self.device)
                embedded = self.model.embed(self.model.pixels(slices, self._pixel_mm)).half()  # (N, C, g, g)
                # Copies: a view would keep its whole batch alive.
                self._embeddings |= {index: one.clone() for index, one in zip(part, embedded, strict=True)}
                most = max(self.batch, int(self.cache_mb * 2**20) // embedded[0].nbytes)
                for index in list(self._embeddings)[:-most]:
                    del self._embeddings[index]

    @torch.inference_mode()
    def logits_of(self, name: str) -> np.ndarray:
        """Logits of one object, float32, shape of the volume; 0 in slices that were not clicked."""
        logits = np.zeros(self.volume.shape, np.float32)
        stack = slices_of(logits, self.volume, self.axis)
        for index, answer in self._state.answers.get(name, {}).items():
            stack[index] = self._upscaled(answer.logits[None])[0].numpy()
        return logits

    @classmethod
    def replay(cls, model: Sam2D, volume: Volume, path: str | os.PathLike) -> "SliceSession":
        """Open a session and make the clicks of a journal again, one by one.

        Raises:
            JournalError: Damaged, or of another volume or another network.
        """
        try:
            session = cls(model, volume, **Journal.load(path).settings)
        except (ClickError, TypeError) as error:
            raise JournalError(
                f"{path}: cannot be repeated ({error}); was it made slice by slice, or edited?"
            ) from error
        session.load_journal(path)
        return session

    def _answer(
        self, clicks: tuple[Click, ...], previous: Mapping[int, SliceAnswer] | None
    ) -> Mapping[int, SliceAnswer]:
        return self._draw(clicks[-1:], previous)

    def _mask_on_grid(self, answer: Mapping[int, SliceAnswer]) -> np.ndarray:
        mask = np.zeros(self.volume.shape, bool)
        stack = slices_of(mask, self.volume, self.axis)
        for index, one in answer.items():
            stack[index] = one.mask
        return mask

    def _maker(self) -> dict[str, str]:
        return {"name": self.model.name, "kind": "slices", "weights_sha256": weights_sha256(self.model)}

    def _settings(self) -> dict[str, Any]:
        return {"axis": self.axis, "window": list(self.window)}

    def _draw(self, new: tuple[Click, ...], previous: Mapping[int, SliceAnswer] | None) -> Mapping[int, SliceAnswer]:
        """The answers of all slices of the active object after new clicks, at most one a slice."""
        answers = dict(previous or {})
        clicks: dict[int, tuple[tuple[Place, bool], ...]] = {}
        by_count = defaultdict(list)  # a padded prompt is another prompt, so only equal numbers of clicks share a batch
        for click in new:
            place = self.place_of(click.ijk)
            known = answers[place.index].clicks if place.index in answers else ()
            if not known and not click.foreground:
                raise ClickError(
                    f"{self.active}: ijk={click.ijk} is its first click in {self.axis} slice {place.index}, so it must "
                    "be foreground. A slice that was not clicked is empty already."
                )
            clicks[place.index] = (*known, (place, click.foreground))
            by_count[len(known)].append(place.index)
        for indices in by_count.values():
            for part in _parts(indices, self.batch):
                answers |= self._decode({index: clicks[index] for index in part}, answers)
        return answers

    @torch.inference_mode()
    def _decode(
        self, clicks: Mapping[int, tuple[tuple[Place, bool], ...]], previous: Mapping[int, SliceAnswer]
    ) -> dict[int, SliceAnswer]:
        """The network's new opinion on at most `batch` slices, equally many clicks in each."""
        self.embed_slices(clicks)
        with self._timed("seconds_decoding"):
            embedding = torch.stack([self._embeddings[index] for index in clicks]).float()  # (N, C, g, g)
            places = torch.tensor([[(place.column, place.row) for place, _ in inside] for inside in clicks.values()])
            points = self.model.points(places, self._slices.shape[1:], self._pixel_mm)  # (N, P, 2)
            labels = torch.tensor([[int(foreground) for _, foreground in inside] for inside in clicks.values()])
            known = [previous[index].logits for index in clicks if index in previous]  # of all, or of none
            logits = torch.stack(known)[:, None].float().to(self.device) if known else None  # (N, 1, m, m)
            proposed, iou = self.model.decode(embedding, points.to(self.device), labels.to(self.device), logits)
            chosen = best_of(proposed, iou).half()  # (N, m, m)
            masks = (self._upscaled(chosen) > 0).cpu().numpy()  # (N, rows, columns)
            chosen = chosen.cpu()
        # Copies: an undo keeps one slice, not the batch that it was in.
        return {
            index: SliceAnswer(clicks[index], chosen[place].clone(), masks[place].copy())
            for place, index in enumerate(clicks)
        }

    def _upscaled(self, logits: Tensor) -> Tensor:
        return self.model.upscale(logits.float(), self._slices.shape[1:], self._pixel_mm)

    @contextmanager
    def _timed(self, counter: str) -> Iterator[None]:
        started = perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        setattr(self, counter, getattr(self, counter) + perf_counter() - started)


def slices_of(data: np.ndarray, volume: Volume, axis: str = "axial") -> np.ndarray:
    """View of an array as a stack of slices as a radiologist sees them; what is written into it lands in the array.

    Args:
        data: Shape of the volume.
        volume: Gives the grid.
        axis: "axial", "coronal" or "sagittal".

    Returns:
        (slices, rows, columns). Slices run to the head, front or right; the first row is front or head, the first
        column the patient's right, or front in sagittal ones.
    """
    stack = np.moveaxis(to_ras(data, volume), VIEWS[axis].through, 0)  # (n, across, up)
    return stack.transpose(0, 2, 1)[:, ::-1, ::-1]


def usual_eight_bit(volume: Volume) -> tuple[float, float]:
    """Intensities that become 0 and 255 where nobody says otherwise, in the volume's unit."""
    if volume.unit in EIGHT_BIT:
        return EIGHT_BIT[volume.unit]
    white = float(np.percentile(volume.data, WHITE_PERCENTILE))
    return 0.0, white if white > 0 else 1.0


def to_eight_bit(data: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Intensities as uint8: the window's ends become 0 and 255.

    >>> to_eight_bit(np.array([-1.0, 3.5, 7.0, 9.0]), (0.0, 7.0)).tolist()
    [0, 128, 255, 255]
    """
    low, high = window
    return np.clip((data - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)


def _checked_window(window: Any) -> tuple[float, float]:
    numbers = isinstance(window, (list, tuple)) and len(window) == 2 and all(isinstance(one, Real) for one in window)
    if not numbers or not np.isfinite(window).all() or window[0] >= window[1]:
        raise ClickError(f"window={window!r}; expected two intensities, the first one lower, or None.")
    return float(window[0]), float(window[1])


def _parts(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
