"""Prompts on a 2D network, slice by slice, as SAM and MedSAM segment volumes.

    volume -> slices as a radiologist sees them, 8 bit -> embeddings       once for each slice that is needed
    points and box in a slice, its logits so far -> masks -> the best one   at every prompt

A click acts on its own slice and on no other; what is drawn across slices acts in each of them, see `slice_prompts`.
`SliceSession.propagate` carries a finished slice to its neighbours. Source: supplement B.3 and Fig. 4 (a).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor

from seganypet.errors import ClickError, renamed_keywords
from seganypet.metrics import dice
from seganypet.model.base import SliceNetwork
from seganypet.pet.views import VIEWS, ras_spacing
from seganypet.pet.volume import Volume
from seganypet.prompting.binding_session import BindingSession
from seganypet.prompting.body import Body
from seganypet.prompting.network_session import NetworkSession
from seganypet.prompting.prompts import Box, Click, InitialMask, Lasso, Prompt, Scribble, since_start
from seganypet.prompting.propagation import ObjectLook, Propagation, end_of_object
from seganypet.prompting.readings import MAX_READINGS, Reading, distinct
from seganypet.prompting.slice_binding import bind_points
from seganypet.prompting.slice_decoding import SliceDecoder, SlicePrediction
from seganypet.prompting.slice_prompts import (
    SliceCue,
    SlicePosition,
    cue_of_mask,
    cues_of,
    numbers_of,
    sections_of,
    slice_positions,
)
from seganypet.prompting.slices import checked_range, slices_of, to_eight_bit, usual_intensity_range


@dataclass(frozen=True, eq=False)
class SlicedObject:
    """Prediction of the network for an object.

    Attributes:
        slices: The slices that have a prediction, by number.
        prompts: Prompts that count, oldest first; what they settle is written into the mask.
        quality: Predicted IoU of the mask, where it is one of several readings.
    """

    slices: Mapping[int, SlicePrediction]
    prompts: tuple[Prompt, ...]
    quality: float | None = None


class SliceSession(BindingSession, NetworkSession):
    """One volume, one 2D network, and the prompts so far.

    In the slice of a click, all points of the active object go in, with its newest box and the logits of the mask that
    was chosen there before; of the masks that the network proposes, the one with the highest predicted IoU is chosen,
    and after the first prompt on an object, if that lies in one slice, all of them are its readings.
    Points that the network leaves on the wrong side change sides with their neighbourhood, see `slice_binding`.
    The first click or scribble of an object in each slice must be foreground: a slice without one is empty, and nothing
    can be taken away. A mask to start from is kept as it is until a slice of it is prompted; there it is the network's
    prior. A prompt outside the body finds nothing, and `notice` says so.

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
        seconds_embedding, seconds_decoding: Time spent so far on embeddings, and on prompts after that.

    Raises:
        SegAnyPETError: These are not such a network and a volume; the message lists what is missing.
        ClickError: `axis`, `batch`, `intensity_range` or `cache_mb` is out of range or of the wrong type.
    """

    axis: str
    batch: int
    cache_mb: float
    intensity_range: tuple[float, float]
    _slices: np.ndarray  # (n, rows, columns) uint8
    _decoder: SliceDecoder
    _body: Body

    accepts = frozenset(kind.kind for kind in (Click, Scribble, Box, Lasso, InitialMask, Propagation))
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
        self.intensity_range = checked_range(intensity_range) if given else usual_intensity_range(volume)
        self._body = Body(volume)
        self._slices = slices_of(to_eight_bit(volume.data, self.intensity_range), volume, axis)
        spacing, view = ras_spacing(volume), VIEWS[axis]
        self._decoder = SliceDecoder(model, self._slices, (spacing[view.up], spacing[view.across]), batch, cache_mb)

    @property
    def seconds_embedding(self) -> float:
        return self._decoder.seconds_embedding

    @property
    def seconds_decoding(self) -> float:
        return self._decoder.seconds_decoding

    @property
    def slice_count(self) -> int:
        """Number of slices along the axis."""
        return len(self._slices)

    def position_of(self, ijk: Sequence[int]) -> SlicePosition:
        """Slice, row and column of a voxel of the volume; ClickError if it lies outside."""
        voxel = np.array([self.volume.check_voxel(ijk)])
        return SlicePosition(*slice_positions(voxel, self.volume, self.axis)[0].tolist())

    def click_slices(self, clicks: Sequence[Prompt]) -> np.ndarray:
        """One prompt in each of many slices, decoded in batches, as one step for undo.

        The mask is that of the same prompts one by one, up to rounding: a batch adds in another order, so a pixel may
        differ whose logit is all but 0. The journal holds the prompts one by one.

        Args:
            clicks: Clicks, scribbles, boxes or lassos on the active object, in any order, no two in one slice.

        Returns:
            Mask of the active object on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: No prompt, two in one slice, one outside the volume or of another kind, or the first one of a
                slice is not foreground. The session is then as it was before.
        """
        new = tuple(self._checked(click) for click in clicks)
        if other := [prompt.kind for prompt in new if prompt.kind in (InitialMask.kind, Propagation.kind)]:
            raise ClickError(f"a prompt of kind {other[0]!r} among those of single slices; give it alone, with add.")
        slices = [numbers_of(prompt, self.volume, self.axis) for prompt in new]
        count = len(set().union(*slices))
        if not new or count < sum(map(len, slices)):
            raise ClickError(
                f"{len(new)} prompts in {count} {self.axis} slices; expected at least one, and one a slice. Give "
                "further prompts of a slice in another call, because each builds on the mask before."
            )
        self._check_room()
        previous = self._state.predictions.get(self.active)
        slices_now = self._prompted(new, previous.slices if previous else {})
        self._accept(new, SlicedObject(slices_now, self._counting((*since_start(self.prompts), *new))))
        self._changed()
        return self.mask

    def propagate(self, ijk: Sequence[int] | None = None, *, slices: int | None = None) -> np.ndarray:
        """Carry a finished slice of the active object to its neighbours, in both directions.

        Each next slice is prompted with the mask before it: as prior, and by its box or, for a network without boxes,
        its deepest pixel. It ends before a slice that was prompted by hand, and where the object ends: where the mask
        is empty or its area, place or intensity changes implausibly; `notice` says where and why. Slices that were
        carried before, and never prompted, are carried anew.

        Args:
            ijk: Any voxel of that slice; None: the slice of the newest prompt.
            slices: How many slices to go on each side, at most; None: until the object ends.

        Returns:
            Mask of the active object on the volume's grid, bool, shape (I, J, K).

        Raises:
            ClickError: Nothing of the object lies in that slice, or there is no such slice. The session is then as it
                was before.
        """
        if ijk is None:
            spoken = [prompt for prompt in self.prompts if prompt.kind != Propagation.kind]
            if not spoken:
                raise ClickError(f"{self.active}: nothing to propagate yet; prompt a slice first.")
            ijk = spoken[-1].centre_ijk
        return self.add(Propagation(self.volume.check_voxel(ijk), slices))

    def embed_slices(self, indices: Iterable[int]) -> None:
        """Embed slices ahead of prompts, in batches; those that are known cost nothing.

        Raises:
            ClickError: There is no such slice.
        """
        wanted = list(indices)
        if wrong := [index for index in wanted if not 0 <= index < self.slice_count]:
            raise ClickError(f"no {self.axis} slice {wrong[0]}; there are 0 to {self.slice_count - 1}.")
        self._decoder.embed(wanted)

    def logits_of(self, name: str) -> np.ndarray:
        """Logits of one object, float32, shape of the volume; 0 in slices without a prediction.

        What prompts settle is written into the mask alone, see `prompts.constrain`.
        """
        logits = np.zeros(self.volume.shape, np.float32)
        stack = slices_of(logits, self.volume, self.axis)
        if name in self._state.predictions:
            for index, prediction in self._state.predictions[name].slices.items():
                stack[index] = self._decoder.upscale(prediction.logits)
        return logits

    def _predict(self, prompts: tuple[Prompt, ...], previous: SlicedObject | None) -> SlicedObject:
        newest, slices, prompts = prompts[-1], previous.slices if previous else {}, self._counting(prompts)
        if isinstance(newest, InitialMask):
            return SlicedObject(self._started_from(newest.mask), prompts)
        if isinstance(newest, Propagation):
            return SlicedObject(self._propagated(newest, SlicedObject(slices, prompts)), prompts)
        return SlicedObject(self._prompted((newest,), slices), prompts)

    def _possible(self, prompts: tuple[Prompt, ...], prediction: SlicedObject) -> Sequence[SlicedObject]:
        """The masks that the network proposes for a single slice that was prompted once."""
        (first,) = prompts
        if len(prediction.slices) != 1 or isinstance(first, InitialMask):
            return [prediction]
        ((index, one),) = prediction.slices.items()
        objects = [
            replace(prediction, slices={index: self._bound(other, index)}, quality=iou)
            for other, iou in self._decoder.propose(index, one.cue, self._region_logits(first))
        ]
        return distinct(
            objects, lambda a, b: dice(a.slices[index].mask[None], b.slices[index].mask[None]), MAX_READINGS
        )

    def _reading(self, prediction: SlicedObject) -> Reading:
        return super()._reading(prediction)._replace(quality=prediction.quality)

    def _mask_on_grid(self, prediction: SlicedObject) -> np.ndarray:
        mask = np.zeros(self.volume.shape, bool)
        stack = slices_of(mask, self.volume, self.axis)
        for index, one in prediction.slices.items():
            stack[index] = one.mask
        self._constrain(mask, prediction.prompts)
        return mask

    def _provenance(self) -> dict[str, str]:
        return super()._provenance() | {"kind": "slices"}

    def _settings(self) -> dict[str, Any]:
        return {"axis": self.axis, "intensity_range": list(self.intensity_range), **super()._settings()}

    @property
    def _boxes(self) -> bool:
        return Box.kind in self.model.accepts

    def _prompted(self, new: tuple[Prompt, ...], slices: Mapping[int, SlicePrediction]) -> dict[int, SlicePrediction]:
        """The predictions for all slices of the active object after new prompts, at most one a slice."""
        masks = {index: one.mask for index, one in slices.items()}
        cues: dict[int, SliceCue] = {}
        priors = {index: one.logits for index, one in slices.items()}
        for prompt in new:
            if not self._counting((prompt,)):
                self._tell(f"Nothing found: the {prompt.kind} lies outside the body. The mask is as it was before.")
                continue
            told = cues_of(prompt, self.volume, self.axis, boxes=self._boxes, masks=masks)
            if not prompt.foreground:
                if prompt.binds_voxels:  # a region may well say where nothing is to come
                    self._check_not_first(prompt, slices)
                told = {index: cue for index, cue in told.items() if index in slices}
            if (sentence := self._notice_of(prompt, told)) not in ("", *self._told):
                self._tell(sentence)
            cues |= told
            priors = self._region_logits(prompt) | priors
        known = {index: slices[index].cue + cue if index in slices else cue for index, cue in cues.items()}
        decoded = self._decoder.decode(known, priors)
        return {**slices, **{index: self._bound(one, index) for index, one in decoded.items()}}

    def _bound(self, one: SlicePrediction, index: int) -> SlicePrediction:
        """A prediction whose points are obeyed; as it is, in a session that repeats an older journal."""
        if not self._binds:
            return one
        picture = slices_of(self.volume.data, self.volume, self.axis)[index]
        pixel_mm = self._decoder.pixel_mm
        return replace(one, mask=bind_points(one.mask, one.cue.points, picture, pixel_mm, self.volume.unit))

    def _region_logits(self, prompt: Prompt) -> dict[int, Tensor]:
        """What a positive box or lasso is as the mask before, for a network that takes masks but no boxes."""
        if self._boxes or not (isinstance(prompt, Box | Lasso) and prompt.foreground and "mask" in self.model.accepts):
            return {}
        logits = {}
        for number, row, column, section in sections_of(prompt, self.volume, self.axis):
            mask = np.zeros(self._slices.shape[1:], bool)
            mask[row : row + section.shape[0], column : column + section.shape[1]] = section
            logits[number] = self._decoder.mask_logits(mask)
        return logits

    def _counting(self, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        """Without those that say that the object is where there is no body; all of them for an older journal."""
        return tuple(
            prompt
            for prompt in prompts
            if not (self._binds and prompt.foreground and isinstance(prompt, Click | Scribble | Box | Lasso))
            or any(self._body.holds(voxel) for voxel, _ in prompt.points)
        )

    def _check_not_first(self, prompt: Prompt, slices: Mapping[int, SlicePrediction]) -> None:
        crossed = sorted(numbers_of(prompt, self.volume, self.axis))
        if not slices.keys() & set(crossed):
            where = f"slice {crossed[0]}" if len(crossed) == 1 else f"slices {crossed[0]} to {crossed[-1]}"
            raise ClickError(
                f"{self.active}: ijk={prompt.centre_ijk} is its first {prompt.kind} in {self.axis} {where}, so it must "
                "be foreground. A slice without prompts is empty already."
            )

    def _notice_of(self, prompt: Prompt, told: Mapping[int, SliceCue]) -> str:
        """What became of a box or lasso; "" if just what one expects."""
        if not isinstance(prompt, Box | Lasso):
            return ""
        if not prompt.foreground:
            return "" if told else f"Nothing of {self.active} lies in this {prompt.kind}."
        boxes = sum(cue.box is not None for cue in told.values())
        if not self._boxes:
            return f"{self.model.name} takes no boxes: the middle of the {prompt.kind} was clicked for it."
        if boxes < len(told):
            return f"{self.axis.capitalize()} slices cut this {prompt.kind} to lines, whose middle was clicked."
        return f"This {prompt.kind} became a box in each of {boxes} {self.axis} slices." if boxes > 1 else ""

    def _started_from(self, mask: np.ndarray) -> dict[int, SlicePrediction]:
        """A mask as if the network had drawn it."""
        stack = slices_of(mask, self.volume, self.axis)
        numbers = np.flatnonzero(stack.any((1, 2))).tolist()
        return {
            index: SlicePrediction(
                cue_of_mask(stack[index], index, boxes=self._boxes),
                self._decoder.mask_logits(stack[index]),
                stack[index].copy(),
            )
            for index in numbers
        }

    def _propagated(self, prompt: Propagation, prediction: SlicedObject) -> dict[int, SlicePrediction]:
        """The slices of an object, with one of them carried to its neighbours."""
        start = self.position_of(prompt.ijk).number
        stack = slices_of(self._mask_on_grid(prediction), self.volume, self.axis)
        if not stack[start].any():
            raise ClickError(
                f"{self.active}: nothing of it lies in {self.axis} slice {start}, so nothing can be propagated from "
                "there; prompt that slice first."
            )
        slices, ends = dict(prediction.slices), []
        prompted = {index for index, one in slices.items() if not one.carried}
        for path in (range(start - 1, -1, -1), range(start + 1, self.slice_count)):
            free = list(takewhile(lambda index: index not in prompted, path))
            carried, why = self._carried(stack[start], start, free[: prompt.slices])
            slices = {index: one for index, one in slices.items() if index not in free} | carried
            if not why and len(carried) == len(free) < len(path):
                why = f" (slice {path[len(free)]} was prompted)"
            ends.append((f"to slice {[*carried][-1]}" if carried else "no further") + why)
        self._tell(f"Carried from {self.axis} slice {start}: {' and '.join(ends)}.")
        return slices

    def _carried(self, mask: np.ndarray, start: int, path: list[int]) -> tuple[dict[int, SlicePrediction], str]:
        """The predictions for slices that follow one with a mask, until the object ends, and why it does."""
        look, areas = ObjectLook.of(self._slices[start], mask), [int(mask.sum())]
        carried: dict[int, SlicePrediction] = {}
        for index in path:
            cue = cue_of_mask(mask, index, boxes=self._boxes)
            one = self._decoder.decode({index: cue}, {index: self._decoder.mask_logits(mask)})[index]
            if why := end_of_object(look, areas, mask, one.mask, self._slices[index]):
                return carried, f" (in slice {index} {why})"
            carried[index] = replace(one, carried=True)
            mask = one.mask
            areas.append(int(mask.sum()))
        return carried, ""
