"""A 2D network at work on the slices of one volume: embeddings, kept within a bound, and predictions in batches."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from seganypet.model.base import SliceNetwork
from seganypet.model.devices import is_small, single_thread
from seganypet.model.sam2d import best_of
from seganypet.prompting.slice_prompts import SliceCue


@dataclass(frozen=True, eq=False)
class SlicePrediction:
    """Prediction of the network for one slice of an object.

    Attributes:
        cue: What the network was told of this slice.
        logits: Low-resolution logits of the chosen mask, (m, m) float16 on the CPU; fed back at the next prompt.
        mask: The same mask on the slice's own pixels, (rows, columns) bool.
        carried: Whether it was carried here from a neighbour, and no prompt speaks of this slice.
    """

    cue: SliceCue
    logits: Tensor
    mask: np.ndarray
    carried: bool = False


class SliceDecoder:
    """Embeds slices when they are first needed, and decodes what is told of them.

    Args:
        model: The network.
        slices: The stack, (n, rows, columns) uint8.
        pixel_mm: Height and width of a pixel.
        batch: Number of slices that go through the network together.
        cache_mb: Upper bound of the embeddings kept, in MiB; the least recently used go first.

    Attributes:
        seconds_embedding, seconds_decoding: Time spent so far.
    """

    def __init__(
        self, model: SliceNetwork, slices: np.ndarray, pixel_mm: tuple[float, float], batch: int, cache_mb: float
    ):
        self.model, self.slices, self.pixel_mm, self.batch, self.cache_mb = model, slices, pixel_mm, batch, cache_mb
        self.device = next(model.parameters()).device
        self._one_thread = self.device.type == "cpu" and is_small(model)
        self.seconds_embedding = self.seconds_decoding = 0.0
        self.embeddings: dict[int, Tensor] = {}  # the one used last at the end

    @torch.inference_mode()
    def embed(self, indices: Iterable[int]) -> None:
        """Embed slices, in batches; those that are known cost nothing."""
        wanted = list(dict.fromkeys(indices))
        missing = [index for index in wanted if index not in self.embeddings]
        for index in wanted:
            if index in self.embeddings:
                self.embeddings[index] = self.embeddings.pop(index)
        with self._timed("seconds_embedding"):
            for part in self._parts(missing):
                slices = torch.from_numpy(np.ascontiguousarray(self.slices[part])).to(self.device)
                embedded = self.model.embed(self.model.pixels(slices, self.pixel_mm)).half()  # (N, C, g, g)
                # Copies: a view would keep its whole batch alive.
                self.embeddings |= {index: one.clone() for index, one in zip(part, embedded, strict=True)}
                most = max(self.batch, int(self.cache_mb * 2**20) // embedded[0].nbytes)
                for index in list(self.embeddings)[:-most]:
                    del self.embeddings[index]

    def decode(self, cues: Mapping[int, SliceCue], priors: Mapping[int, Tensor]) -> dict[int, SlicePrediction]:
        """Predictions for slices.

        Args:
            cues: All that the network is told of each slice, by number.
            priors: Low-resolution logits before, (m, m), of those slices that have any; others are ignored.
        """
        # A padded prompt is another prompt, so only slices with equally many points, all or none with a box and all or
        # none with logits before, share a batch.
        alike = defaultdict(list)
        for index, cue in cues.items():
            alike[len(cue.points), cue.box is None, index in priors].append(index)
        decoded: dict[int, SlicePrediction] = {}
        for indices in alike.values():
            for part in self._parts(indices):
                decoded |= self._decode_alike({index: cues[index] for index in part}, priors)
        return decoded

    @torch.inference_mode()
    def mask_logits(self, mask: np.ndarray) -> Tensor:
        """A mask of a slice, (rows, columns) bool, as low-resolution logits, (m, m) float16 on the CPU."""
        # A copy: PyTorch takes no negative strides, which a view of one row has and still counts as contiguous.
        masks = torch.from_numpy(mask.copy())[None].to(self.device)
        return self.model.mask_logits(masks, self.pixel_mm)[0].half().cpu()

    @torch.inference_mode()
    def upscale(self, logits: Tensor) -> np.ndarray:
        """Low-resolution logits of a slice on its own pixels, (rows, columns) float32."""
        return self._upscaled(logits[None])[0].cpu().numpy()

    @torch.inference_mode()
    def propose(self, index: int, cue: SliceCue, priors: Mapping[int, Tensor]) -> list[tuple[SlicePrediction, float]]:
        """All masks that the network proposes for a slice, with their predicted IoU, the best first; as `decode`."""
        proposed, iou = self._proposed({index: cue}, priors)
        order = iou[0].argsort(descending=True, stable=True)
        logits = proposed[0][order].half()  # (M, m, m)
        masks = (self._upscaled(logits) > 0).cpu().numpy()
        return [
            (SlicePrediction(cue, one.clone(), mask.copy()), quality)
            for one, mask, quality in zip(logits.cpu(), masks, iou[0][order].tolist(), strict=True)
        ]

    @torch.inference_mode()
    def _decode_alike(self, cues: Mapping[int, SliceCue], priors: Mapping[int, Tensor]) -> dict[int, SlicePrediction]:
        """Predictions for at most `batch` slices, whose cues are alike."""
        chosen = best_of(*self._proposed(cues, priors)).half()  # (N, m, m)
        with self._timed("seconds_decoding"):
            masks = (self._upscaled(chosen) > 0).cpu().numpy()  # (N, rows, columns)
            chosen = chosen.cpu()
        # Copies: an undo keeps one slice, not the batch that it was in.
        return {
            index: SlicePrediction(cue, chosen[number].clone(), masks[number].copy())
            for number, (index, cue) in enumerate(cues.items())
        }

    def _proposed(self, cues: Mapping[int, SliceCue], priors: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the masks that the network proposes for slices whose cues are alike, and their predicted IoU."""
        self.embed(cues)
        with self._timed("seconds_decoding"):
            embedding = torch.stack([self.embeddings[index] for index in cues]).float()  # (N, C, g, g)
            shape, told = self.slices.shape[1:], list(cues.values())
            places = torch.tensor([[(at.column, at.row) for at, _ in cue.points] for cue in told])
            points = self.model.points(places.reshape(len(told), -1, 2), shape, self.pixel_mm)  # (N, P, 2), P may be 0
            labels = torch.tensor([[int(foreground) for _, foreground in cue.points] for cue in told])  # (N, P)
            before = [priors[index] for index in cues if index in priors]  # of all, or of none
            logits = torch.stack(before)[:, None].float().to(self.device) if before else None  # (N, 1, m, m)
            boxes = {}
            if told[0].box is not None:
                corners = torch.tensor([cue.box for cue in told])
                boxes["boxes"] = self.model.boxes(corners, shape, self.pixel_mm).to(self.device)  # (N, 4)
            return self.model.decode(embedding, points.to(self.device), labels.to(self.device), logits, **boxes)

    def _upscaled(self, logits: Tensor) -> Tensor:
        return self.model.upscale(logits.float(), self.slices.shape[1:], self.pixel_mm)

    def _parts(self, indices: list[int]) -> list[list[int]]:
        return [indices[start : start + self.batch] for start in range(0, len(indices), self.batch)]

    @contextmanager
    def _timed(self, counter: str) -> Iterator[None]:
        started = perf_counter()
        with single_thread() if self._one_thread else nullcontext():
            yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        setattr(self, counter, getattr(self, counter) + perf_counter() - started)
