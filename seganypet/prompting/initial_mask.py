"""An existing mask as a prompt: another tool's result, or an earlier one, to start from."""

import base64
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import numpy as np
from scipy import ndimage

from seganypet.errors import ClickError
from seganypet.pet.volume import Point, Volume, load_labels
from seganypet.prompting.prompt import Mark, Prompt, Voxel, as_voxels, check_mm, in_mm, is_voxel
from seganypet.regions import Box, bounding_box, deepest_voxel, depth_mm


@dataclass(frozen=True)
class InitialMask(Prompt):
    """A mask to start from: what was said of the object before no longer counts.

    It is kept as compressed bits, so that a journal holds it and undo steps compare it in no time.

    Attributes:
        shape: Shape of the volume that it lies on.
        low_ijk: First voxel of the mask's bounding box.
        size: Voxels of that box along (i, j, k).
        packed: The mask within the box, eight voxels a byte in C order, deflated.
        drawn_by: What drew it, for people, such as "brush" or a threshold and its value; "" if nobody said.
        foreground: True, always.
    """

    kind: ClassVar[str] = "mask"
    binds_voxels: ClassVar[bool] = False
    starts_anew: ClassVar[bool] = True

    shape: Voxel
    low_ijk: Voxel
    size: Voxel
    packed: bytes = field(repr=False)
    drawn_by: str = ""
    foreground: bool = field(default=True, init=False)

    @classmethod
    def of(cls, mask: Any, volume: Volume) -> Self:
        """A prompt that starts from a mask.

        Args:
            mask: Bool, or integers with one label besides 0, shape of the volume; or the path of a NIfTI file with
                such a mask on the volume's grid.
            volume: The volume.

        Raises:
            ClickError: No array, of another shape, empty, or with more than one label.
            VolumeError: The file cannot be read; GeometryError: it lies on another grid.
        """
        if isinstance(mask, (str, os.PathLike)):
            given, what = load_labels(mask, volume), str(mask)
        else:
            given, what = np.asarray(mask), "the mask to start from"
        if given.dtype.kind not in "buif":
            raise ClickError(
                f"{what} is a {type(mask).__name__} of {given.dtype}; expected a bool array of shape {volume.shape}, "
                "or the path of a label file."
            )
        if given.shape != volume.shape:
            raise ClickError(
                f"{what} has shape {given.shape}, but {volume.source} has {volume.shape}; expected a mask on the same "
                "grid. load_labels(path, volume) reads a label file and checks its grid."
            )
        labels = np.unique(given[given != 0])  # NaN is among them
        if not len(labels):
            raise ClickError(f"{what} is empty: there is nothing to start from. Click instead.")
        if not np.array_equal(labels, np.rint(labels)):
            raise ClickError(f"{what} holds fractions, such as {labels[0]:.3g}; expected a mask. Threshold it first.")
        if len(labels) > 1:
            some = ", ".join(f"{label:g}" for label in labels[:10].tolist()) + ", ..." * (len(labels) > 10)
            raise ClickError(f"{what} holds the labels {some}; expected one. Choose one: labels == {labels[0]:g}.")
        return cls.pack(given != 0)

    @classmethod
    def pack(cls, mask: np.ndarray, drawn_by: str = "") -> Self:
        """A prompt of a mask that is known to be bool, 3D, and not empty."""
        box = bounding_box(mask)
        low, size = as_voxels(np.array([(part.start, part.stop - part.start) for part in box]).T)
        packed = zlib.compress(np.packbits(mask[box]).tobytes())
        return cls(as_voxels(np.array([mask.shape]))[0], low, size, packed, drawn_by)

    @property
    def box(self) -> Box:
        """The mask's bounding box, as an index of the volume's array."""
        i, j, k = (slice(low, low + size) for low, size in zip(self.low_ijk, self.size, strict=True))
        return i, j, k

    @cached_property
    def inside(self) -> np.ndarray:
        """The mask within its box, bool, shape `size`; not to be written to."""
        packed = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        bits = np.unpackbits(packed, count=math.prod(self.size))
        return bits.reshape(self.size).astype(bool)

    @property
    def mask(self) -> np.ndarray:
        """The mask, bool, shape of the volume; the caller's own."""
        mask = np.zeros(self.shape, bool)
        mask[self.box] = self.inside
        return mask

    @property
    def voxels(self) -> np.ndarray:
        return np.argwhere(self.inside).astype(np.int32) + np.array(self.low_ijk, np.int32)

    @cached_property
    def centre_ijk(self) -> Voxel:
        """Its deepest voxel."""
        return as_voxels(np.add(deepest_voxel(self.inside, (1, 1, 1)), self.low_ijk)[None])[0]

    @property
    def points(self) -> tuple[tuple[Voxel, bool], ...]:
        """Its deepest voxel."""
        return ((self.centre_ijk, True),)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Nothing: the mask itself is drawn."""
        return ()

    def depth_at(self, ijk: Voxel, spacing: Point) -> float:
        """Distance of a voxel from the nearest one outside the mask, in mm; 0 outside."""
        at = tuple(index - side.start for index, side in zip(ijk, self.box, strict=True))
        inside = all(0 <= index < size for index, size in zip(at, self.size, strict=True))
        return float(_depth(self, spacing)[at]) if inside else 0.0

    def core(self, spacing: Point) -> np.ndarray:
        """Its middle: voxels at least half as deep, in mm, as the deepest within 1 cm along each axis, (n, 3) int."""
        depth = _depth(self, spacing)
        deepest = ndimage.maximum_filter(depth, 2 * np.ceil(10 / np.array(spacing)).astype(int) + 1)
        return np.argwhere(self.inside & (depth >= deepest / 2)) + self.low_ijk

    def constrain(self, mask: np.ndarray) -> None:
        """Nothing: it is where the object starts, not where it ends."""

    def obeyed_by(self, mask: np.ndarray) -> bool:
        return True

    def checked(self, volume: Volume) -> Self:
        if self.shape != volume.shape:
            raise ClickError(
                f"a mask to start from of shape {self.shape} does not fit {volume.source} of shape {volume.shape}."
            )
        return self

    def to_json(self, affine: np.ndarray | None = None) -> dict[str, Any]:
        mm = {} if affine is None else {"low_mm": in_mm(self.low_ijk, affine)}
        where = {"shape": list(self.shape), "low_ijk": list(self.low_ijk), **mm, "size": list(self.size)}
        who = {"drawn_by": self.drawn_by} if self.drawn_by else {}
        return {**where, "packed": base64.b64encode(self.packed).decode(), **who}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any], affine: np.ndarray | None = None) -> Self:
        shape, low, size, packed = (entry.get(name) for name in ("shape", "low_ijk", "size", "packed"))
        drawn_by = entry.get("drawn_by", "")
        damaged = "a mask to start from is damaged; was the file cut or edited?"
        if not (all(map(is_voxel, (shape, low, size))) and isinstance(packed, str) and isinstance(drawn_by, str)):
            raise ClickError(
                f"{damaged} Expected shape, low_ijk, size with three integers each, packed and drawn_by, texts."
            )
        check_mm([low], [entry.get("low_mm")], affine)
        if min(low) < 0 or min(size) < 1 or any(a + n > end for a, n, end in zip(low, size, shape, strict=True)):
            raise ClickError(f"{damaged} A box of {size} voxels from {low} does not lie in a volume of shape {shape}.")
        expected = -(-math.prod(size) // 8)
        try:
            content = base64.b64decode(packed, validate=True)
            bits = zlib.decompressobj().decompress(content, min(expected, 2**40) + 1)  # no more than one byte too many
        except (ValueError, zlib.error) as error:
            raise ClickError(f"{damaged} ({error})") from error
        prompt = cls(tuple(shape), tuple(low), tuple(size), content, drawn_by)
        if len(bits) != expected or not prompt.inside.any():
            raise ClickError(f"{damaged} Its bits do not fill a box of {size} voxels.")
        return prompt


@lru_cache(maxsize=4)
def _depth(prompt: InitialMask, spacing: Point) -> np.ndarray:
    return depth_mm(prompt.inside, spacing)
