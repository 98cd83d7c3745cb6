"""Clicking on a 2D network, slice by slice, as SAM and MedSAM segment volumes.

    volume -> slices as a radiologist sees them, 8 bit -> embeddings       once for each slice that is needed
    clicks in a slice, its logits so far -> three masks -> the best one     at every click

A click acts on its own slice and on no other. Source: supplement B.3 and Fig. 4 (a).
"""

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

from seganypet.errors import ClickError, renamed_keywords
from seganypet.model.base import SliceNetwork
from seganypet.model.sam2d import EIGHT_BIT, best_of
from seganypet.pet.views import VIEWS, ijk_to_ras, ras_spacing, to_ras
from seganypet.pet.volume import Volume
from seganypet.prompting.network_session import NetworkSession
from seganypet.prompting.prompts import Prompt, signed_voxels

WHITE_PERCENTILE = 99.5  # of a volume in Bq/mL, which has no usual range


class SlicePosition(NamedTuple):
    """A voxel in the stack of `slices_of`: number of the slice, row and column."""

    number: int
    row: int
    column: int


SlicePoints = tuple[tuple[SlicePosition, bool], ...]  # oldest first, and whether they are foreground


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """Prediction of the network for one slice of an object.

    Attributes:
        points: Points in this slice.
        logits: Low-resolution logits of the chosen mask, (m, m) float16 on the CPU; fed back at the next click.
        mask: The same mask on the slice's own pixels, (rows, columns) bool.
    """

    points: SlicePoints
    logits: Tensor
    mask: np.ndarray


class SliceSession(NetworkSession):
    """One volume, one 2D network, and the prompts so far.

    In the slice of a click, all clicks of the active object go in, with the logits of the mask that was chosen there
    before; of the three masks that the network proposes, the one with the highest predicted IoU is chosen. The first
    click of an object in each slice must be foreground: a slice without one is empty, and nothing can be taken away.

    Args:
        model: Network that meets `SliceNetwork`, such as `load_model("tiny-2d")` returns, on any device.
        volume: Volume to segment.
        axis: Direction of the slices: "axial", "coronal" or "sagittal". Pixels that are not square are made so by
            scaling.
        batch: Number of slices that go through the network together.
        intensity_range: Intensities that become 0 and 255, in the volume's unit. None: SUVbw 0 to 7, HU -160 to 240,
            Bq/mL 0 to the 99.5th percentile of the volume.
        cache_mb: Upper bound of the embeddings kept on the model's device, in MiB; the least recently used go first.
            A slice takes 2 MiB with SAM ViT-B to ViT-H, in float16.

    Attributes:
        seconds_embedding, seconds_decoding: Time spent so far on embeddings, and on clicks after that.

    Raises:
        SegAnyPETError: These are not such a network and a volume; the message lists what is missing.
        ClickError: `axis`, `batch`, `intensity_range` or `cache_mb` is out of range or of the wrong type.
    """

    axis: str
    batch: int
    cache_mb: float
    intensity_range: tuple[float, float]
    _slices: np.ndarray  # (n, rows, columns) uint8
    _pixel_mm: tuple[float, float]  # height and width

    network = SliceNetwork
    renamed_settings = {"window": "intensity_range"}

    @renamed_keywords(**renamed_settings)
    def __init__(
        self,
        model: SliceNetwork,
        volume: Volume,
        *,
        axis: str = "axial",
        batch: int = 8,
        intensity_range: Sequence[float] | None = None,
        cache_mb: float = 1024,
    ):
        super().__init__(model, volume)
        if axis not in VIEWS:
            raise ClickError(f"axis={axis!r}; expected one of {', '.join(VIEWS)}.")
        if not (isinstance(batch, int) and batch > 0 and isinstance(cache_mb, Real) and cache_mb > 0):
            raise ClickError(f"batch={batch!r}, cache_mb={cache_mb!r}; expected a whole number and a size above 0.")
        self.axis, self.batch, self.cache_mb = axis, batch, cache_mb
        given = intensity_range is not None
        self.intensity_range = _checked_range(intensity_range) if given else usual_intensity_range(volume)
        self.seconds_embedding = self.seconds_decoding = 0.0
        self._slices = slices_of(to_eight_bit(volume.data, self.intensity_range), volume, axis)
        spacing, view = ras_spacing(volume), VIEWS[axis]
        self._pixel_mm = spacing[view.up], spacing[view.across]
        self._embeddings: dict[int, Tensor] = {}  # the one used last at the end

    @property
    def slice_count(self) -> int:
        """Number of slices along the axis."""
        return len(self._slices)

    def position_of(self, ijk: Sequence[int]) -> SlicePosition:
        """Slice, row and column of a voxel of the volume; ClickError if it lies outside."""
        view, ras = VIEWS[self.axis], ijk_to_ras(ijk, self.volume)
        rows, columns = self._slices.shape[1:]
        return SlicePosition(ras[view.through], rows - 1 - ras[view.up], columns - 1 - ras[view.across])

    def click_slices(self, clicks: Sequence[Prompt]) -> np.ndarray:
        """One click in each of many slices, decoded in batches, as one step for undo.

        The mask is that of the same clicks one by one, up to rounding: a batch adds in another order, so a pixel may
        differ whose logit is all but 0. The journal holds the clicks one by one.

        Args:
            clicks: Prompts on the active object, in any order, no two in one slice.

        Returns:
            Mask of the active object on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: No click, two in one slice, one outside the volume, or the first one of a slice is not
                foreground. The session is then as it was before.
        """
        new = tuple(self._checked(click) for click in clicks)
        slices = [{self.position_of(voxel).number for voxel in click.voxels} for click in new]
        count = len(set().union(*slices))
        if not new or count < sum(map(len, slices)):
            raise ClickError(
                f"{len(new)} clicks in {count} {self.axis} slices; expected at least one, and one a slice. Give "
                "further clicks of a slice in another call, because each builds on the mask before."
            )
        self._check_room()
        self._accept(new, self._predict_slices(new, self._state.predictions.get(self.active)))
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
        for index, prediction in self._state.predictions.get(name, {}).items():
            stack[index] = self._upscaled(prediction.logits[None])[0].numpy()
        return logits

    def _predict(
        self, prompts: tuple[Prompt, ...], previous: Mapping[int, SlicePrediction] | None
    ) -> Mapping[int, SlicePrediction]:
        return self._predict_slices(prompts[-1:], previous)

    def _mask_on_grid(self, prediction: Mapping[int, SlicePrediction]) -> np.ndarray:
        mask = np.zeros(self.volume.shape, bool)
        stack = slices_of(mask, self.volume, self.axis)
        for index, one in prediction.items():
            stack[index] = one.mask
        return mask

    def _provenance(self) -> dict[str, str]:
        return super()._provenance() | {"kind": "slices"}

    def _settings(self) -> dict[str, Any]:
        return {"axis": self.axis, "intensity_range": list(self.intensity_range)}

    def _predict_slices(
        self, new: tuple[Prompt, ...], previous: Mapping[int, SlicePrediction] | None
    ) -> Mapping[int, SlicePrediction]:
        """The predictions for all slices of the active object after new prompts, at most one a slice."""
        predictions = dict(previous or {})
        points: dict[int, SlicePoints] = {}
        for voxel, foreground in signed_voxels(new):
            position = self.position_of(voxel)
            known = predictions[position.number].points if position.number in predictions else ()
            known = points.get(position.number, known)
            if not known and not foreground:
                raise ClickError(
                    f"{self.active}: ijk={voxel} is its first click in {self.axis} slice {position.number}, so it must "
                    "be foreground. A slice that was not clicked is empty already."
                )
            points[position.number] = (*known, (position, foreground))
        # A padded prompt is another prompt, so only slices of equally many points, all new or none, share a batch.
        alike = defaultdict(list)
        for index, inside in points.items():
            alike[len(inside), index in predictions].append(index)
        for indices in alike.values():
            for part in _parts(indices, self.batch):
                predictions |= self._decode({index: points[index] for index in part}, predictions)
        return predictions

    @torch.inference_mode()
    def _decode(
        self, given: Mapping[int, SlicePoints], previous: Mapping[int, SlicePrediction]
    ) -> dict[int, SlicePrediction]:
        """The network's new predictions for at most `batch` slices, equally many points in each."""
        self.embed_slices(given)
        with self._timed("seconds_decoding"):
            embedding = torch.stack([self._embeddings[index] for index in given]).float()  # (N, C, g, g)
            positions = torch.tensor([[(at.column, at.row) for at, _ in points] for points in given.values()])
            positions = self.model.points(positions, self._slices.shape[1:], self._pixel_mm)  # (N, P, 2)
            labels = torch.tensor([[int(foreground) for _, foreground in points] for points in given.values()])
            known = [previous[index].logits for index in given if index in previous]  # of all, or of none
            logits = torch.stack(known)[:, None].float().to(self.device) if known else None  # (N, 1, m, m)
            proposed, iou = self.model.decode(embedding, positions.to(self.device), labels.to(self.device), logits)
            chosen = best_of(proposed, iou).half()  # (N, m, m)
            masks = (self._upscaled(chosen) > 0).cpu().numpy()  # (N, rows, columns)
            chosen = chosen.cpu()
        # Copies: an undo keeps one slice, not the batch that it was in.
        return {
            index: SlicePrediction(given[index], chosen[number].clone(), masks[number].copy())
            for number, index in enumerate(given)
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
        data: Array of the volume's shape.
        volume: Volume whose grid is used.
        axis: Direction of the slices: "axial", "coronal" or "sagittal".

    Returns:
        (slices, rows, columns). Slices run to the head, front or right; the first row is front or head, the first
        column the patient's right, or front in sagittal ones.
    """
    stack = np.moveaxis(to_ras(data, volume), VIEWS[axis].through, 0)  # (n, across, up)
    return stack.transpose(0, 2, 1)[:, ::-1, ::-1]


def usual_intensity_range(volume: Volume) -> tuple[float, float]:
    """Intensities that become 0 and 255 by default, in the volume's unit."""
    if volume.unit in EIGHT_BIT:
        return EIGHT_BIT[volume.unit]
    white = float(np.percentile(volume.data, WHITE_PERCENTILE))
    return 0.0, white if white > 0 else 1.0


def to_eight_bit(data: np.ndarray, intensity_range: tuple[float, float]) -> np.ndarray:
    """Intensities as uint8: the ends of the range become 0 and 255.

    >>> to_eight_bit(np.array([-1.0, 3.5, 7.0, 9.0]), (0.0, 7.0)).tolist()
    [0, 128, 255, 255]
    """
    low, high = intensity_range
    return np.clip((data - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)


def _checked_range(given: Any) -> tuple[float, float]:
    numbers = isinstance(given, (list, tuple)) and len(given) == 2 and all(isinstance(one, Real) for one in given)
    if not numbers or not np.isfinite(given).all() or given[0] >= given[1]:
        raise ClickError(f"intensity_range={given!r}; expected two intensities, the first one lower, or None.")
    return float(given[0]), float(given[1])


def _parts(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
