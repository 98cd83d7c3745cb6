"""Clicking on a 3D network: a session looks where the object is, embeds that window once, and then a click is a quick
pass through prompt encoder and mask decoder.

    click -> PromptSession.add (base.py)        checks, objects, undo, journal
          -> Session._predict                   air? which windows? then what the click settles
               first_look, look.follow          the window that fits what was clicked; what else it may mean
               window_decoder.decode            the network's logits in a window, given all its points
               growth.grow                      further windows for what is larger than one
               binding                          the clicked voxel obeys, and what looks like it; leaks go
          -> mask                               logits of all windows on the volume's grid, then the threshold
    readings -> Session._possible               the same for what else a first prompt may mean, when it is asked for
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np

from seganypet.errors import ClickError, JournalError, UnitError, renamed_keywords
from seganypet.model.base import PromptableNetwork
from seganypet.pet.volume import Volume
from seganypet.prompting.binding import Edit, blur_around, corrected, leak_behind_neck, loose_pieces, neighbourhood
from seganypet.prompting.binding_session import BINDING
from seganypet.prompting.body import Body
from seganypet.prompting.first_prompt import Candidate, first_look
from seganypet.prompting.growth import MAX_WINDOWS, drop_orphan_windows, grow
from seganypet.prompting.initial_mask import InitialMask
from seganypet.prompting.journal import Journal
from seganypet.prompting.look import cover, follow, look_at_region, may_be_one, reached, spacings_mm
from seganypet.prompting.network_session import NetworkSession
from seganypet.prompting.packed_mask import PackedMask
from seganypet.prompting.prompts import (
    Box,
    Click,
    Lasso,
    Prompt,
    Scribble,
    Voxel,
    constrain,
    signed_voxels,
    since_start,
)
from seganypet.prompting.readings import MAX_READINGS, MIN_READING_ML, Reading, distinct
from seganypet.prompting.window import logits_on_grid, mask_on_grid, positive_box
from seganypet.prompting.window_decoder import PRECISIONS, WindowDecoder, best_precision
from seganypet.prompting.window_logits import PointMM, WindowLogits, mask_extent_mm
from seganypet.regions import enclosing_box

GROWTH = 1.5  # of an object's size, its positive clicks included, that one click may bring


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a session makes of the prompts on one object.

    Attributes:
        windows: The network's logits, window by window; none if nothing was found, or a mask was only started from.
        mask: The object, on the volume's grid.
        edits: What prompts settled against the network, oldest first.
        is_cut: Whether it meets the border of as many windows as an object may have.
        is_blank: Whether the network sees nothing there.
        quality: Predicted IoU of what a first prompt was taken to mean; None of a network that predicts none.
        candidates: What the first prompt may mean, the likeliest first; none after a correction.
    """

    windows: tuple[WindowLogits, ...]
    mask: PackedMask
    edits: tuple[Edit, ...] = ()
    is_cut: bool = False
    is_blank: bool = False
    quality: float | None = None
    candidates: tuple[Candidate, ...] = ()


class Session(NetworkSession):
    """One volume, one 3D network, and the prompts so far.

    The first prompt on an object is answered from more than one scale, and the window then follows what was found:
    centred on it, finer for what is small. What else that prompt may mean is in `readings`: in the order of how clearly
    it stands out for its size and, if the network's metadata say that it was trained for that ("readings"), of the IoU
    that it predicts. Released networks, whose training used one mask and no predicted IoU, have one reading.

    When the mask meets a face of its window, further windows that overlap by half are opened there, so that an organ
    larger than the window is not cut. A click binds: its voxel, and what looks like it around it, end on the side that
    the user said. A click outside the body finds nothing, and `notice` says so.

    Args:
        model: Network that meets `PromptableNetwork`, such as `load_model` returns, on any device.
        volume: Volume to segment.
        spacing_mm: Voxel size of the window, in mm, if it is to be fixed; None: the session looks for one among those
            that suit the network. A released network keeps the one that it was trained with.
        min_spacing_mm: Smallest voxel size that the session zooms in to, in mm; None: what suits the network, or with
            a fixed `spacing_mm` no zoom.
        precision: Of the image encoder, "float32", "bfloat16", or "auto": bfloat16 where the processor has instructions
            for it.

    Raises:
        SegAnyPETError: These are not such a network and a volume; the message lists what is missing.
        UnitError: The network was trained on SUV and the volume is in another unit.
        ClickError: `spacing_mm`, `min_spacing_mm` or `precision` is out of range or of the wrong type.

    Source: supplement Fig. 4 (b) for one window; look.py, growth.py and binding.py say what is ours.
    """

    network = PromptableNetwork
    renamed_settings = {"finest_mm": "min_spacing_mm"}
    accepts = frozenset(one.kind for one in (Click, Scribble, Box, Lasso, InitialMask))

    @renamed_keywords(**renamed_settings)
    def __init__(
        self, model: PromptableNetwork, volume: Volume, *, spacing_mm: float | None = None,
        min_spacing_mm: float | None = None, precision: str = "auto",
    ):  # fmt: skip
        super().__init__(model, volume)
        _check_unit(model, volume)
        if precision not in ("auto", *PRECISIONS):
            raise ClickError(f"precision={precision!r}; expected 'auto', 'float32' or 'bfloat16'.")
        for name, size in (("spacing_mm", spacing_mm), ("min_spacing_mm", min_spacing_mm)):
            if size is not None and not (isinstance(size, Real) and 0.2 <= size <= 20):
                raise ClickError(f"{name}={size!r}; expected a voxel size from 0.2 to 20 mm, or None.")
        self._fixed = {
            name: None if size is None else float(size)
            for name, size in (("spacing_mm", spacing_mm), ("min_spacing_mm", min_spacing_mm))
        }
        self._scales = spacings_mm(model, **self._fixed)
        self._decoder = WindowDecoder(model, volume, best_precision(self.device) if precision == "auto" else precision)
        self._body = Body(volume)
        self._nothing = Prediction((), PackedMask.of(np.zeros(volume.shape, bool)))

    @property
    def spacing_mm(self) -> float:
        """Voxel size of a window whose object is not small, in mm: the network's own, unless another was given."""
        return self._scales.own

    @property
    def min_spacing_mm(self) -> float:
        """Smallest voxel size of a window, in mm."""
        return self._scales.finest

    @property
    def precision(self) -> str:
        """Precision that the image encoder computes in."""
        return self._decoder.precision

    def logits_of(self, name: str) -> np.ndarray:
        """Logits of one object, float32, shape of the volume; 0 outside its windows.

        They are the network's alone: what clicks settled against it is in the mask. Where several windows overlap,
        they are weighted towards their centres.
        """
        prediction = self._state.predictions.get(name)
        parts = self._windows(since_start(self.prompts_of(name)), prediction) if prediction else ()
        return logits_on_grid(self.volume, [(part.window, part.logits) for part in parts])

    def load_journal(self, path: str | os.PathLike) -> None:
        """As `PromptSession.load_journal`; a session without a past also takes on the journal's precision.

        Precision "auto" is what suits a machine, so a journal from another one is not refused for it.
        """
        before, recorded = self.precision, Journal.load(path).settings.get("precision")
        if recorded in PRECISIONS and not (self.can_undo or self.can_redo):
            self._decoder.compute_in(recorded)
        try:
            super().load_journal(path)
        except BaseException:
            self._decoder.compute_in(before)
            raise

    def _predict(self, prompts: tuple[Prompt, ...], previous: Prediction | None) -> Prediction:
        before, newest = previous or self._nothing, prompts[-1]
        if isinstance(newest, InitialMask):
            return Prediction((), PackedMask.of(newest.mask))  # at once: where it lies, the network need not see yet
        if self._points_at_nothing(newest):
            self._tell(f"Nothing found at this {newest.kind}: it lies outside the body.")
            return before
        if not newest.foreground and not (before.windows or before.mask.bits.any()):
            self._tell("Nothing was found yet that could be taken away: click what belongs to the object first.")
            return before
        prompts = tuple(prompt for prompt in prompts if not self._points_at_nothing(prompt))
        points = self._points_mm(prompts)
        candidates: tuple[Candidate, ...] = ()
        with self._decoder.computing():
            if windows := self._windows(prompts, before):
                windows = self._further(prompts, points, windows)
            elif isinstance(newest, Box | Lasso):
                windows = (look_at_region(self._decoder, newest, points, self._scales),)
            else:
                candidates = first_look(self._decoder, points, self._scales)
                windows = (candidates[0].part,)
            prediction = self._completed(windows, prompts, points, before)
        self._tell_of(prediction)
        return replace(prediction, candidates=candidates, quality=candidates[0].quality if candidates else None)

    def _possible(self, prompts: tuple[Prompt, ...], prediction: Prediction) -> list[Prediction]:
        candidates = prediction.candidates
        if len(candidates) < 2:
            return [prediction]
        points = self._points_mm(prompts)

        def completed() -> Iterator[Prediction]:
            for number, candidate in enumerate(candidates):
                one = self._completed((candidate.part,), prompts, points, self._nothing)
                if not number or one.mask.voxel_count * self.volume.voxel_volume_ml >= MIN_READING_ML:
                    yield replace(one, candidates=candidates, quality=candidate.quality)

        with self._decoder.computing():
            return distinct(completed(), lambda one, other: one.mask.dice(other.mask), MAX_READINGS)

    def _reading(self, prediction: Prediction) -> Reading:
        return Reading.of(prediction.mask, self.volume, prediction.quality)

    def _windows(self, prompts: Sequence[Prompt], prediction: Prediction) -> tuple[WindowLogits, ...]:
        """The windows of an object; those over a mask to start from are laid when they are first asked for."""
        if prediction.windows or not isinstance(prompts[0], InitialMask):
            return prediction.windows
        with self._decoder.computing():
            return cover(self._decoder, prompts[0], self._scales)

    def _further(
        self, prompts: tuple[Prompt, ...], points: list[PointMM], windows: tuple[WindowLogits, ...]
    ) -> tuple[WindowLogits, ...]:
        """The network's logits in the windows of an object, and in a new one if need be, after a further prompt."""
        newest = prompts[-1]
        new_mm = [mm for mm, _ in self._points_mm([newest])]
        clicked_mm = [mm for mm, foreground in points if foreground]
        if newest.foreground and not any(part.holds_any(new_mm) for part in windows):
            windows = reached(self._decoder, windows, new_mm, points, self._scales)
        size_mm = float(np.ptp(mask_extent_mm(windows[0], clicked_mm), axis=0).max())
        windows = self._corrected(windows, points, new_mm, newest.foreground)
        if newest.foreground and len(windows) == 1 and may_be_one(self._decoder, windows[0], clicked_mm, new_mm):
            windows = (follow(self._decoder, windows[0], points, self._scales, GROWTH * size_mm),)
        return windows

    def _completed(
        self, windows: tuple[WindowLogits, ...], prompts: tuple[Prompt, ...], points: list[PointMM], before: Prediction
    ) -> Prediction:
        """The prediction that some windows lead to: with further ones where they are too small, then settled."""
        windows, is_cut = drop_orphan_windows(windows), False
        if prompts[-1].foreground and not isinstance(prompts[0], InitialMask):
            windows, is_cut = grow(self._decoder, windows, points)
        return replace(self._settle(windows, prompts, before), is_cut=is_cut)

    def _corrected(
        self, windows: tuple[WindowLogits, ...], points: list[PointMM], new_mm: list[np.ndarray], foreground: bool
    ) -> tuple[WindowLogits, ...]:
        """Windows with the network's new prediction for those that the newest prompt lies in."""
        current = dict(enumerate(windows))
        asked = [number for number, part in current.items() if part.holds_any(new_mm)]
        for _ in range(2):  # asked again, with its own answer before it, the network often gives in
            decoded = self._decoder.decode_all([current[number] for number in asked], points)
            current |= zip(asked, decoded, strict=True)
            asked = [number for number in asked if not current[number].agrees(new_mm, foreground)]
        return tuple(current.values())

    def _settle(
        self, windows: tuple[WindowLogits, ...], prompts: tuple[Prompt, ...], before: Prediction
    ) -> Prediction:
        """The mask of some windows after all that prompts settle."""
        newest = prompts[-1]
        parts = [(part.window, part.logits) for part in windows]
        mask, box = mask_on_grid(self.volume, parts), positive_box(self.volume, parts)
        is_blank = box is None or not mask[box].any()
        if isinstance(prompts[0], InitialMask):
            mask = corrected(before.mask.unpack(), mask, newest, self.volume)
            box = None  # anywhere
        elif all(part.window.spacing_mm < self._scales.own for part in windows) and (
            blur := blur_around(self.volume, mask, box)
        ):
            blur.apply(mask)
        edits = before.edits
        for edit in edits:
            edit.apply(mask)
        for edit in self._new_edits(mask, prompts, before):
            edit.apply(mask)
            edits = (*edits, edit)
        constrain(mask, prompts)
        anchors = np.concatenate([_anchors(prompt, mask) for prompt in prompts if prompt.foreground])
        reach_mm = 2 * max((part.window.spacing_mm for part in windows), default=0.0)
        if box is not None:
            bound = [_box_around(prompt) for prompt in prompts if prompt.binds_voxels]
            i, j, k = enclosing_box([box, *bound, *(edit.box for edit in edits)])
            box = i, j, k
        if loose := loose_pieces(mask, anchors, self.volume, reach_mm, box):
            loose.apply(mask)
        return Prediction(windows, PackedMask.of(mask, box), edits, is_blank=is_blank)

    def _new_edits(self, mask: np.ndarray, prompts: tuple[Prompt, ...], before: Prediction) -> list[Edit]:
        newest, edits = prompts[-1], list[Edit]()
        if not newest.binds_voxels:
            return edits
        voxels = [voxel for voxel, _ in newest.points]
        positives = _voxels_of(prompts, True)
        if not newest.foreground and isinstance(newest, Click):
            leak = leak_behind_neck(before.mask.unpack(), self.volume, positives, newest.ijk)
            if leak is not None:
                edits.append(leak)
                leak.apply(mask)
        wrong = [voxel for voxel in voxels if mask[voxel] != newest.foreground]
        if wrong:
            others = _voxels_of(prompts, not newest.foreground)
            edits.append(neighbourhood(self.volume, wrong, newest.foreground, others))
        return edits

    def _tell_of(self, prediction: Prediction) -> None:
        if prediction.is_blank:
            self._tell(f"{self.model.name} sees nothing here: only what looks like your prompts is marked.")
        if prediction.is_cut:
            problem = (
                f"the mask of {self.active} still meets the border of its {MAX_WINDOWS} windows: it may have leaked "
                "(undo, then click elsewhere), or be cut there (use a coarser spacing_mm)."
            )
            self._tell(problem)
            warnings.warn(problem, stacklevel=6)  # whoever clicks

    def _points_at_nothing(self, prompt: Prompt) -> bool:
        """Whether a prompt says that the object is where there is no body."""
        if not prompt.foreground or isinstance(prompt, InitialMask):
            return False
        return not any(self._body.holds(voxel) for voxel, _ in prompt.points)

    def _points_mm(self, prompts: Sequence[Prompt]) -> list[PointMM]:
        return [(self.volume.to_mm(voxel), foreground) for voxel, foreground in signed_voxels(prompts)]

    def _mask_on_grid(self, prediction: Prediction) -> np.ndarray:
        return prediction.mask.unpack()

    def _provenance(self) -> dict[str, Any]:
        # The same weights in other windows draw other masks.
        config = self.model.config
        return super()._provenance() | {"window_voxels": config.window_size, "window_spacing_mm": config.spacing_mm}

    def _settings(self) -> dict[str, Any]:
        return {**self._fixed, "precision": self.precision, **BINDING}

    @classmethod
    def _settings_of(cls, journal: Journal) -> dict[str, Any]:
        settings = super()._settings_of(journal)
        if not BINDING.items() <= settings.items():
            raise JournalError(
                "the journal was made by a version in which windows stayed where they were opened and clicks did not "
                "bind, so its masks cannot be drawn again. Its prompts can be given anew: "
                "for name, prompt in Journal.load(path).prompts: session.select(name); session.add(prompt)."
            )
        return settings


def _anchors(prompt: Prompt, mask: np.ndarray) -> np.ndarray:
    """The voxels that hold a piece of a mask to a prompt, (n, 3); of a region those of the mask."""
    if isinstance(prompt, Box):
        return np.argwhere(mask[prompt.slices]) + prompt.low_ijk
    return prompt.voxels


def _box_around(prompt: Prompt) -> tuple[slice, ...]:
    """The box that holds a prompt's voxels."""
    low, high = prompt.voxels.min(0).tolist(), prompt.voxels.max(0).tolist()
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))


def _voxels_of(prompts: Sequence[Prompt], foreground: bool) -> list[Voxel]:
    return [voxel for voxel, sign in signed_voxels(prompts) if sign == foreground]


def _check_unit(model: PromptableNetwork, volume: Volume) -> None:
    if model.config.intensity == "log_suv" and volume.unit == "HU":
        raise UnitError(
            f"{volume.source} is a CT in HU, but {model.name} was trained on PET in SUVbw. "
            "Load the PET of the same patient."
        )
    if model.config.intensity == "log_suv" and volume.unit != "SUVbw":
        raise UnitError(
            f"{volume.source} is in {volume.unit}, but {model.name} was trained on SUVbw. Load DICOM with "
            "load_dicom, which converts, or convert with to_suvbw(volume, ...)."
        )
