"""Clicking on a 3D network: a window is embedded once, then a click is a quick pass through prompt encoder and mask
decoder.

    click -> PromptSession.add (base.py)      checks, objects, undo, journal
          -> Session._predict                 which windows; embed, decode, grow or zoom
          -> window.mask_on_grid              logits of all windows on the volume's grid, then the threshold
"""

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from seganypet.errors import ClickError, UnitError, renamed_keywords
from seganypet.model.base import PromptableNetwork
from seganypet.pet.volume import Point, Volume
from seganypet.prompting.network_session import NetworkSession
from seganypet.prompting.prompts import Journal, Prompt, signed_voxels
from seganypet.prompting.window import Window, logits_on_grid, mask_on_grid, resample, sample_window, window_around

MAX_WINDOWS = 12  # of one object; an aorta needs three
FACE_VOXELS = 4  # low-resolution voxels of mask on a window's face that make it grow
MAX_EMBEDDINGS = 64
SMALL_FRACTION = 0.2  # of a window's side; a mask that spans less of it is decoded again in a finer window
PRECISIONS = ("float32", "bfloat16")

PointMM = tuple[np.ndarray, bool]  # RAS+ millimetres, (3,), and whether it is foreground


@dataclass(frozen=True, eq=False)
class WindowLogits:
    """Prediction of the network for one window of an object.

    Attributes:
        window: Cube that the network saw.
        logits: Low-resolution logits, (1, 1, m, m, m).
        seeds_mm: Foreground points that growth set here, in RAS+ millimetres: where the neighbour's mask was deepest.
    """

    window: Window
    logits: Tensor
    seeds_mm: tuple[Point, ...] = ()


class Session(NetworkSession):
    """One volume, one 3D network, and the prompts so far.

    The window is centred on an object's first prompt. When the mask meets a face of its window, further windows that
    overlap by half are opened there, so that an organ larger than the window is not cut. With `min_spacing_mm` the
    session zooms in on what turns out to be small: it is decoded again in a finer window around it. Logits have two
    voxels a side in each of the window's, and a window of 4 mm cannot draw 1 mL.

    Args:
        model: Network that meets `PromptableNetwork`, such as `load_model` returns, on any device.
        volume: Volume to segment.
        spacing_mm: Voxel size of the window, in mm; None: the network's own.
        min_spacing_mm: Smallest voxel size that the session zooms in to, in mm; None: no zoom.
        precision: "float32", "bfloat16", or "auto": bfloat16 where the processor has matrix units for it.

    Raises:
        SegAnyPETError: These are not such a network and a volume; the message lists what is missing.
        UnitError: The network was trained on SUV and the volume is in another unit.
        ClickError: `spacing_mm`, `min_spacing_mm` or `precision` is out of range or of the wrong type.

    Source: supplement Fig. 4 (b); the growth by half-overlapping windows follows the successor's description.
    """

    network = PromptableNetwork
    renamed_settings = {"finest_mm": "min_spacing_mm"}

    @renamed_keywords(**renamed_settings)
    def __init__(
        self, model: PromptableNetwork, volume: Volume, *, spacing_mm: float | None = None,
        min_spacing_mm: float | None = None, precision: str = "auto",
    ):  # fmt: skip
        super().__init__(model, volume)
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
        for name, size in (("spacing_mm", spacing_mm), ("min_spacing_mm", min_spacing_mm)):
            if size is not None and not (isinstance(size, Real) and 0.2 <= size <= 20):
                raise ClickError(f"{name}={size!r}; expected a voxel size from 0.2 to 20 mm, or None.")
        self.spacing_mm = float(spacing_mm or model.config.spacing_mm)
        self.min_spacing_mm = None if min_spacing_mm is None else float(min_spacing_mm)
        self.precision = _best_precision(self.device) if precision == "auto" else precision
        self._embeddings: dict[Window, Any] = {}

    def logits_of(self, name: str) -> np.ndarray:
        """Logits of one object, float32, shape of the volume; 0 outside its windows.

        Where several windows overlap, they are weighted towards their centres.
        """
        parts = self._state.predictions.get(name, ())
        return logits_on_grid(self.volume, [(part.window, part.logits) for part in parts])

    def load_journal(self, path: str | os.PathLike) -> None:
        """As `PromptSession.load_journal`; a session without a past also takes on the journal's precision.

        Precision "auto" is what suits a machine, so a journal from another one is not refused for it.
        """
        before, recorded = self.precision, Journal.load(path).settings.get("precision")
        if recorded in PRECISIONS and not (self.can_undo or self.can_redo):
            self._compute_in(recorded)
        try:
            super().load_journal(path)
        except BaseException:
            self._compute_in(before)
            raise

    def _predict(
        self, prompts: tuple[Prompt, ...], previous: tuple[WindowLogits, ...] | None
    ) -> tuple[WindowLogits, ...]:
        newest, windows = prompts[-1], previous or ()
        points = self._points_mm(prompts)
        new_mm = [mm for mm, _ in self._points_mm([newest])]
        if newest.foreground and not any(_holds_any(part, new_mm) for part in windows):
            window = self._window(self.volume.to_mm(newest.centre_ijk), self.spacing_mm)
            windows = (*windows, WindowLogits(window, self.model.no_logits()))
        windows = tuple(self._decode(part, points) if _holds_any(part, new_mm) else part for part in windows)
        windows = tuple(self._zoomed(part, points) for part in windows)
        return self._grow(drop_orphan_windows(windows), points)

    def _points_mm(self, prompts: Sequence[Prompt]) -> list[PointMM]:
        return [(self.volume.to_mm(voxel), foreground) for voxel, foreground in signed_voxels(prompts)]

    def _mask_on_grid(self, prediction: tuple[WindowLogits, ...]) -> np.ndarray:
        return mask_on_grid(self.volume, [(part.window, part.logits) for part in prediction])

    def _compute_in(self, precision: str) -> None:
        if precision != self.precision:
            self.precision = precision
            self._embeddings.clear()

    def _settings(self) -> dict[str, float | str]:
        settings: dict[str, float | str] = {"spacing_mm": self.spacing_mm, "precision": self.precision}
        # Only where it counts: journals from before there was a zoom still fit.
        return settings if self.min_spacing_mm is None else settings | {"min_spacing_mm": self.min_spacing_mm}

    def _window(self, centre_mm: np.ndarray, spacing_mm: float) -> Window:
        return window_around(self.volume, centre_mm, self.model.config.window_size, spacing_mm)

    @torch.inference_mode()
    def _embed(self, window: Window) -> Any:
        if window not in self._embeddings:
            if len(self._embeddings) >= MAX_EMBEDDINGS:
                del self._embeddings[next(iter(self._embeddings))]
            voxels = self.model.normalise(sample_window(self.volume, window).to(self.device))
            with self._autocast():
                self._embeddings[window] = self.model.embed(voxels)
        return self._embeddings[window]

    @torch.inference_mode()
    def _decode(self, part: WindowLogits, points: list[PointMM]) -> WindowLogits:
        """The network's new prediction for one window, given all points that lie in it."""
        given = [*points, *((np.array(seed), True) for seed in part.seeds_mm)]
        inside = [(part.window.to_window(mm), foreground) for mm, foreground in given if part.window.contains_mm(mm)]
        ijk = torch.tensor(np.array([voxel for voxel, _ in inside]), dtype=torch.float32, device=self.device)
        labels = torch.tensor([int(foreground) for _, foreground in inside], device=self.device)
        embedding = self._embed(part.window)
        with self._autocast():
            logits, _ = self.model.decode(embedding, ijk[None], labels[None], part.logits)
        part = replace(part, logits=logits.float())
        # A window that nobody clicked continues the object that led there, and begins no other one.
        return self._clicked_part(part, points) if part.seeds_mm else part

    def _clicked_part(self, part: WindowLogits, points: list[PointMM]) -> WindowLogits:
        """The window with those pieces of its mask alone that hold a foreground point or a seed."""
        seeds_mm = [np.array(mm) for mm in part.seeds_mm if part.window.contains_mm(mm)]
        return replace(part, logits=keep_clicked_components(part, [*_foreground_in(part, points), *seeds_mm]))

    def _zoomed(self, part: WindowLogits, points: list[PointMM]) -> WindowLogits:
        """The prediction for a finer window where what was clicked is small; else the window as it is."""
        if self.min_spacing_mm is None or part.seeds_mm:
            return part
        clicked_mm = _foreground_in(part, points)
        if not clicked_mm:
            return part
        low, high = mask_extent_mm(keep_clicked_components(part, clicked_mm), part.window, clicked_mm)
        spacing_mm = max(self.min_spacing_mm, float((high - low).max()) / (SMALL_FRACTION * part.window.size))
        if spacing_mm > 0.75 * part.window.spacing_mm:
            return part  # hardly finer
        window = self._window((low + high) / 2, spacing_mm)
        return self._decode(WindowLogits(window, resample_logits(part, window)), points)

    def _grow(self, windows: tuple[WindowLogits, ...], points: list[PointMM]) -> tuple[WindowLogits, ...]:
        """Open half-overlapping windows wherever what was clicked meets a face inside the volume, until none does."""
        grown, waiting = list(windows), list(windows)
        while waiting:
            part = self._clicked_part(waiting.pop(0), points)
            for axis, side in touched_faces(part.logits):
                neighbour = self._neighbour(part, axis, side)
                if neighbour is None or any(_same_position(neighbour.window, other.window) for other in grown):
                    continue
                if len(grown) >= MAX_WINDOWS:
                    warnings.warn(
                        f"the mask of {self.active} still meets the border of its {MAX_WINDOWS} windows: it may have "
                        "leaked (undo, then click elsewhere), or be cut there (use a coarser spacing_mm).",
                        stacklevel=6,  # whoever clicks
                    )
                    return tuple(grown)
                added = self._decode(neighbour, points)
                grown.append(added)
                waiting.append(added)
        return tuple(grown)

    def _neighbour(self, part: WindowLogits, axis: int, side: int) -> WindowLogits | None:
        """The window half a window further, prompted where this mask is deepest in the overlap."""
        window, size = part.window, part.logits.shape[-1]
        centre = np.array(window.corner_mm) + (window.size - 1) / 2 * window.spacing_mm
        centre[axis] += side * window.size / 2 * window.spacing_mm
        neighbour = self._window(centre, window.spacing_mm)
        if _same_position(neighbour, window):
            return None  # the volume ends here
        mask = part.logits[0, 0].cpu().numpy() > 0
        half = [slice(None)] * 3
        half[axis] = slice(0, size // 2) if side > 0 else slice(size // 2, None)
        mask[tuple(half)] = False  # only what lies in the overlap
        deepest = np.unravel_index(ndimage.distance_transform_edt(mask).argmax(), mask.shape)
        seed_mm = window.grid_affine(size)[:3, :3] @ deepest + window.grid_affine(size)[:3, 3]
        x, y, z = seed_mm.tolist()
        return WindowLogits(neighbour, resample_logits(part, neighbour), ((x, y, z),))

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def drop_orphan_windows(windows: tuple[WindowLogits, ...]) -> tuple[WindowLogits, ...]:
    """Without the windows that grew out of mask that is gone.

    A background click may take back the leak that opened other windows. A window stays if a click opened it, or if
    the position it was seeded from is still inside the mask of a window that stays.
    """
    staying = [part for part in windows if not part.seeds_mm]
    grown = [part for part in windows if part.seeds_mm]
    found = grown
    while found:
        found = [part for part in grown if any(_in_mask(other, seed) for other in staying for seed in part.seeds_mm)]
        staying += found
        grown = [part for part in grown if part not in found]
    return tuple(part for part in windows if part in staying)


def _in_mask(part: WindowLogits, mm: Point) -> bool:
    size = part.logits.shape[-1]
    voxel = np.rint(np.linalg.solve(part.window.grid_affine(size), [*mm, 1])[:3]).astype(int)
    return bool((voxel >= 0).all() and (voxel < size).all() and part.logits[0, 0][tuple(voxel)] > 0)


def _holds_any(part: WindowLogits, positions_mm: list[np.ndarray]) -> bool:
    return any(part.window.contains_mm(mm) for mm in positions_mm)


def _foreground_in(part: WindowLogits, points: list[PointMM]) -> list[np.ndarray]:
    """Positions of the foreground points in a window, in RAS+ millimetres."""
    return [mm for mm, foreground in points if foreground and part.window.contains_mm(mm)]


def keep_clicked_components(part: WindowLogits, positions_mm: list[np.ndarray]) -> Tensor:
    """Logits of a window in which only those components of the mask stay positive that hold one of the positions.

    Components are 26-connected. A position holds on to what lies within one low-resolution voxel of it: a click on an
    edge is a click on the organ.
    """
    mask = (part.logits[0, 0] > 0).cpu().numpy()
    components, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    to_voxels = np.linalg.inv(part.window.grid_affine(len(mask)))
    kept = set()
    for mm in positions_mm:
        i, j, k = np.rint(to_voxels[:3, :3] @ mm + to_voxels[:3, 3]).astype(int)
        around = components[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, max(k - 1, 0) : k + 2]
        kept |= set(np.unique(around).tolist())
    loose = torch.from_numpy(mask & ~np.isin(components, list(kept - {0}))).to(part.logits.device)
    return torch.where(loose, -part.logits, part.logits)


def resample_logits(part: WindowLogits, window: Window) -> Tensor:
    """The logits of one window on the grid of another, (1, 1, m, m, m): what is known there before it is decoded."""
    size = part.logits.shape[-1]
    return resample(part.logits, part.window.grid_affine(size), window.grid_affine(size), [size] * 3)


def mask_extent_mm(logits: Tensor, window: Window, positions_mm: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Corners, in RAS+ millimetres, of the smallest box around the mask of a window and some positions in it."""
    to_mm = window.grid_affine(logits.shape[-1])
    voxels = (logits[0, 0] > 0).nonzero().cpu().numpy()  # (n, 3)
    ends = [voxels.min(0), voxels.max(0)] if len(voxels) else []
    corners = np.array([*(to_mm[:3, :3] @ end + to_mm[:3, 3] for end in ends), *positions_mm])
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


def _same_position(one: Window, other: Window) -> bool:
    return bool(np.abs(np.subtract(one.corner_mm, other.corner_mm)).max() < one.spacing_mm)


def _best_precision(device: torch.device) -> str:
    # Without matrix units bfloat16 is no faster than float32 on a CPU, only less exact.
    has_units = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return "bfloat16" if has_units else "float32"
