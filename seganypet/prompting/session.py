"""Clicking: embed a window once, then every click is a quick pass through prompt encoder and mask decoder."""

import os
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from numbers import Real

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seganypet.errors import ClickError, JournalError, SegAnyPETError, UnitError
from seganypet.model.checkpoints import weights_sha256
from seganypet.model.image_encoder import ImageEmbedding
from seganypet.model.sam3d import Sam3D
from seganypet.pet.volume import Volume
from seganypet.prompting.base import ClickSession
from seganypet.prompting.prompts import Click, Journal
from seganypet.prompting.window import Window, logits_on_grid, mask_on_grid, resample, sample_window, window_around

MAX_WINDOWS = 12  # of one object; an aorta needs three
FACE_VOXELS = 4  # low-resolution voxels of mask on a window's face that make it grow
EMBEDDINGS_KEPT = 64
SMALL = 0.2  # of a window's side; a mask that spans less of it is looked at again in a finer window
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, eq=False)
class WindowLogits:
    """What the network said about one window of an object.

    Attributes:
        window: Where.
        logits: Low-resolution logits, (1, 1, m, m, m).
        seeds_mm: Clicks that growth made here, in RAS+ millimetres: where the neighbour's mask was deepest.
    """

    window: Window
    logits: Tensor
    seeds_mm: tuple[tuple[float, float, float], ...] = ()


class Session(ClickSession):
    """One volume, one network, and the clicks so far.

    The window is centred on an object's first click. When the mask meets a face of its window, further
    windows that overlap by half are opened there, so that an organ larger than the window is not cut. With `finest_mm`
    what turns out to be small is looked at again in a finer window around it, as one zooms in on a small lesion: logits
    have two voxels a side in each of the window's, and a window of 4 mm cannot draw 1 mL.

    Args:
        model: From `load_model`; runs on whatever device it is on.
        volume: What to segment.
        spacing_mm: Voxel size of the window; that of the network unless given.
        finest_mm: Smallest voxel size of the second look at what is small; None: no second look.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the processor has matrix units for it.

    Raises:
        SegAnyPETError: These are not a network and a volume.
        UnitError: The network was trained on SUV and the volume is in another unit.
        ClickError: `spacing_mm`, `finest_mm` or `precision` make no sense.

    Source: supplement Fig. 4 (b); the growth by half-overlapping windows follows the successor's description.
    """

    def __init__(
        self, model: Sam3D, volume: Volume, *, spacing_mm: float | None = None, finest_mm: float | None = None,
        precision: str = "auto",
    ):  # fmt: skip
        if not hasattr(model, "config") or not isinstance(volume, Volume):
            raise SegAnyPETError(
                "Session(model, volume) needs a 3D network of load_model and a volume (2D ones go into SliceSession); "
                f"got {type(model).__name__} and {type(volume).__name__}."
            )
        if model.config.intensity == "log_suv" and volume.unit == "HU":
            raise UnitError(
                f"{volume.source} is a CT in HU, but {model.name} was trained on PET in SUVbw. "
                "Load the PET of the same patient."
            )
        if model.config.intensity == "log_suv" and volume.unit != "SUVbw":
            raise UnitError(
                f"{volume.source} is in {volume.unit}, but {model.name} was trained on SUVbw. Load DICOM with "
                "load_dicom, which converts, or convert: Volume(data * suv_per_bq_ml, affine, 'SUVbw')."
            )
        if precision not in ("auto", *PRECISIONS):
            raise ClickError(f"precision={precision!r}; expected 'auto', 'float32' or 'bfloat16'.")
        for name, size in (("spacing_mm", spacing_mm), ("finest_mm", finest_mm)):
            if size is not None and not (isinstance(size, Real) and 0.2 <= size <= 20):
                raise ClickError(f"{name}={size!r}; expected a voxel size from 0.2 to 20 mm, or None.")
        super().__init__(volume)
        self.model = model
        self.spacing_mm = float(spacing_mm or model.config.spacing_mm)
        self.finest_mm = None if finest_mm is None else float(finest_mm)
        self.device = next(model.parameters()).device
        self.precision = _best_precision(self.device) if precision == "auto" else precision
        self._embeddings: dict[Window, ImageEmbedding] = {}

    def logits_of(self, name: str) -> np.ndarray:
        """Logits of one object, float32, shape of the volume; 0 where no window looked.

        Where several windows overlap, they are weighted towards their centres.
        """
        parts = self._state.answers.get(name, ())
        return logits_on_grid(self.volume, [(part.window, part.logits) for part in parts])

    def load_journal(self, path: str | os.PathLike) -> None:
        """As `ClickSession.load_journal`; a session without a past also takes on the journal's precision.

        Precision "auto" is what suits a machine, so a journal from another one is not refused for it.
        """
        before, said = self.precision, Journal.load(path).settings.get("precision")
        if said in PRECISIONS and not (self.can_undo or self.can_redo):
            self._compute_in(said)
        try:
            super().load_journal(path)
        except BaseException:
            self._compute_in(before)
            raise

    @classmethod
    def replay(cls, model: Sam3D, volume: Volume, path: str | os.PathLike) -> "Session":
        """Open a session and make the clicks of a journal again; the masks come out identical.

        Raises:
            JournalError: Damaged, or of another volume or another network.
        """
        try:
            session = cls(model, volume, **Journal.load(path).settings)
        except (ClickError, TypeError) as error:
            raise JournalError(f"{path}: cannot be repeated ({error}); was the file edited?") from error
        session.load_journal(path)
        return session

    def _answer(self, clicks: tuple[Click, ...], previous: tuple[WindowLogits, ...] | None) -> tuple[WindowLogits, ...]:
        windows = previous or ()
        click_mm = self.volume.to_mm(clicks[-1].ijk)
        if clicks[-1].foreground and not any(part.window.contains_mm(click_mm) for part in windows):
            windows = (*windows, WindowLogits(self._window(click_mm, self.spacing_mm), self.model.no_logits()))
        windows = tuple(self._decode(part, clicks) if part.window.contains_mm(click_mm) else part for part in windows)
        if self.finest_mm is not None:
            windows = tuple(self._closer(part, clicks) for part in windows)
        return self._grow(still_grounded(windows), clicks)

    def _mask_on_grid(self, answer: tuple[WindowLogits, ...]) -> np.ndarray:
        return mask_on_grid(self.volume, [(part.window, part.logits) for part in answer])

    def _compute_in(self, precision: str) -> None:
        if precision != self.precision:
            self.precision = precision
            self._embeddings.clear()

    def _maker(self) -> dict[str, str]:
        return {"name": self.model.name, "weights_sha256": weights_sha256(self.model)}

    def _settings(self) -> dict[str, float | str]:
        settings = {"spacing_mm": self.spacing_mm, "precision": self.precision}
        # Only where it counts: journals from before there was a second look still fit.
        return settings if self.finest_mm is None else settings | {"finest_mm": self.finest_mm}

    def _window(self, centre_mm: np.ndarray, spacing_mm: float) -> Window:
        return window_around(self.volume, centre_mm, self.model.config.window_size, spacing_mm)

    @torch.inference_mode()
    def _embed(self, window: Window) -> ImageEmbedding:
        if window not in self._embeddings:
            if len(self._embeddings) >= EMBEDDINGS_KEPT:
                del self._embeddings[next(iter(self._embeddings))]
            voxels = self.model.normalise(sample_window(self.volume, window).to(self.device))
            with self._autocast():
                self._embeddings[window] = self.model.embed(voxels)
        return self._embeddings[window]

    @torch.inference_mode()
    def _decode(self, part: WindowLogits, clicks: tuple[Click, ...]) -> WindowLogits:
        """The network's new opinion on one window, given all clicks that lie in it."""
        places = [(self.volume.to_mm(click.ijk), click.foreground) for click in clicks]
        places += [(np.array(seed), True) for seed in part.seeds_mm]
        inside = [(part.window.to_window(mm), foreground) for mm, foreground in places if part.window.contains_mm(mm)]
        points = torch.tensor(np.array([place for place, _ in inside]), dtype=torch.float32, device=self.device)
        labels = torch.tensor([int(foreground) for _, foreground in inside], device=self.device)
        embedding = self._embed(part.window)
        with self._autocast():
            logits, _ = self.model.decode(embedding, points[None], labels[None], part.logits)
        part = replace(part, logits=logits.float())
        # A window that nobody clicked continues the object that led there, and begins no other one.
        return self._rooted(part, clicks) if part.seeds_mm else part

    def _rooted(self, part: WindowLogits, clicks: tuple[Click, ...]) -> WindowLogits:
        """The window with those pieces of its mask alone that hold a foreground click or a seed."""
        click_mm = [self.volume.to_mm(click.ijk) for click in clicks if click.foreground]
        places_mm = [mm for mm in (*click_mm, *part.seeds_mm) if part.window.contains_mm(mm)]
        return replace(part, logits=rooted_logits(part, places_mm))

    def _closer(self, part: WindowLogits, clicks: tuple[Click, ...]) -> WindowLogits:
        """The answer of a finer window where what was clicked is small; else the window as it is."""
        clicks_mm = [self.volume.to_mm(click.ijk) for click in clicks if click.foreground]
        clicks_mm = [mm for mm in clicks_mm if part.window.contains_mm(mm)]
        if part.seeds_mm or not clicks_mm:
            return part
        low, high = extent_mm(rooted_logits(part, clicks_mm), part.window, clicks_mm)
        spacing_mm = max(self.finest_mm, float((high - low).max()) / (SMALL * part.window.size))
        if spacing_mm > 0.75 * part.window.spacing_mm:
            return part  # hardly finer
        window = self._window((low + high) / 2, spacing_mm)
        return self._decode(WindowLogits(window, seen_from(window, part)), clicks)

    def _grow(self, windows: tuple[WindowLogits, ...], clicks: tuple[Click, ...]) -> tuple[WindowLogits, ...]:
        """Open half-overlapping windows wherever what was clicked meets a face inside the volume, until none does."""
        windows, waiting = list(windows), list(windows)
        while waiting:
            part = self._rooted(waiting.pop(0), clicks)
            for axis, side in touched_faces(part.logits):
                neighbour = self._neighbour(part, axis, side)
                if neighbour is None or any(_same_place(neighbour.window, other.window) for other in windows):
                    continue
                if len(windows) >= MAX_WINDOWS:
                    warnings.warn(
                        f"the mask of {self.active} still meets the border of its {MAX_WINDOWS} windows: it may have "
                        "leaked (undo, then click elsewhere), or be cut there (use a coarser spacing_mm).",
                        stacklevel=5,  # whoever clicks
                    )
                    return tuple(windows)
                grown = self._decode(neighbour, clicks)
                windows.append(grown)
                waiting.append(grown)
        return tuple(windows)

    def _neighbour(self, part: WindowLogits, axis: int, side: int) -> WindowLogits | None:
        """The window half a window further, prompted where this mask is deepest in the overlap."""
        window, size = part.window, part.logits.shape[-1]
        centre = np.array(window.corner_mm) + (window.size - 1) / 2 * window.spacing_mm
        centre[axis] += side * window.size / 2 * window.spacing_mm
        moved = self._window(centre, window.spacing_mm)
        if _same_place(moved, window):
            return None  # the volume ends here
        mask = part.logits[0, 0].cpu().numpy() > 0
        half = [slice(None)] * 3
        half[axis] = slice(0, size // 2) if side > 0 else slice(size // 2, None)
        mask[tuple(half)] = False  # only what lies in the overlap
        deepest = np.unravel_index(ndimage.distance_transform_edt(mask).argmax(), mask.shape)
        seed_mm = window.grid_affine(size)[:3, :3] @ deepest + window.grid_affine(size)[:3, 3]
        return WindowLogits(moved, seen_from(moved, part), (tuple(float(x) for x in seed_mm),))

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def still_grounded(windows: tuple[WindowLogits, ...]) -> tuple[WindowLogits, ...]:
    """Without the windows that grew out of mask that is gone.

    A negative click may take back the leak that opened other windows. A window stays if a click opened it, or if
    the place it was seeded from is still inside the mask of a window that stays.
    """
    staying = [part for part in windows if not part.seeds_mm]
    grown = [part for part in windows if part.seeds_mm]
    found = True
    while found:
        found = [part for part in grown if any(_in_mask(other, seed) for other in staying for seed in part.seeds_mm)]
        staying += found
        grown = [part for part in grown if part not in found]
    return tuple(part for part in windows if part in staying)


def _in_mask(part: WindowLogits, mm: tuple[float, float, float]) -> bool:
    size = part.logits.shape[-1]
    voxel = np.rint(np.linalg.solve(part.window.grid_affine(size), [*mm, 1])[:3]).astype(int)
    return bool((voxel >= 0).all() and (voxel < size).all() and part.logits[0, 0][tuple(voxel)] > 0)


def rooted_logits(part: WindowLogits, places_mm: list[np.ndarray]) -> Tensor:
    """Logits in which only 26-connected pieces of the mask that hold one of the places stay positive.

    A place holds on to what lies within one low-resolution voxel of it: a click on an edge is a click on the organ.
    """
    mask = (part.logits[0, 0] > 0).cpu().numpy()
    pieces, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    to_voxels = np.linalg.inv(part.window.grid_affine(len(mask)))
    kept = set()
    for mm in places_mm:
        i, j, k = np.rint(to_voxels[:3, :3] @ mm + to_voxels[:3, 3]).astype(int)
        kept |= set(np.unique(pieces[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, max(k - 1, 0) : k + 2]).tolist())
    loose = torch.from_numpy(mask & ~np.isin(pieces, list(kept - {0}))).to(part.logits.device)
    return torch.where(loose, -part.logits, part.logits)


def seen_from(window: Window, part: WindowLogits) -> Tensor:
    """Logits of another window on a window's own grid, (1, 1, m, m, m): what is known there before it is decoded."""
    size = part.logits.shape[-1]
    return resample(part.logits, part.window.grid_affine(size), window.grid_affine(size), [size] * 3)


def extent_mm(logits: Tensor, window: Window, places_mm: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Corners, in RAS+ millimetres, of the smallest box around the mask of a window and some places in it."""
    to_mm = window.grid_affine(logits.shape[-1])
    voxels = (logits[0, 0] > 0).nonzero().cpu().numpy()  # (n, 3)
    ends = [voxels.min(0), voxels.max(0)] if len(voxels) else []
    corners = np.array([*(to_mm[:3, :3] @ end + to_mm[:3, 3] for end in ends), *places_mm])
    return corners.min(0), corners.max(0)


def touched_faces(logits: Tensor) -> list[tuple[int, int]]:
    """Faces of a window that its mask meets, as pairs (axis, side), side -1 or +1.

    >>> logits = torch.full((1, 1, 8, 8, 8), -1.0)
    >>> logits[..., 2:5, 2:5, 7] = 1.0
    >>> touched_faces(logits)
    [(2, 1)]
    """
    mask = logits[0, 0] > 0
    return [
        (axis, side)
        for axis in range(3)
        for side in (-1, 1)
        if mask.select(axis, 0 if side < 0 else -1).sum() >= FACE_VOXELS
    ]


def _same_place(one: Window, other: Window) -> bool:
    return bool(np.abs(np.subtract(one.corner_mm, other.corner_mm)).max() < one.spacing_mm)


def _best_precision(device: torch.device) -> str:
    # Without matrix units bfloat16 is no faster than float32 on a CPU, only less exact.
    has_units = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has_units else "float32"
