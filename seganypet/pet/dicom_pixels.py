"""Stored pixels of slices to values in the unit of the rescale slope."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import generate_frames

from seganypet._files import temporary_folder
from seganypet.errors import DicomError
from seganypet.pet.dicom_files import UNREADABLE
from seganypet.pet.dicom_header import Header, Slice, number_of

# Transposing a few slices at once keeps a voxel column's neighbours in one line of the processor's cache.
SLICES_AT_ONCE = 16
# Compressed data of a few bytes may claim any size: no detector has more pixels than this.
MAX_PIXELS = 4096 * 4096


def read_values(slices: Sequence[Slice], factors: Sequence[float]) -> np.ndarray:
    """(Stored value x RescaleSlope + RescaleIntercept) x the factor of its slice.

    Returns:
        Shape (I, J, K) = (columns, rows, slices), float32.

    Raises:
        DicomError: Pixels are damaged, cut short, or in a form that cannot be read.
    """
    rows, columns = slices[0].rows, slices[0].columns
    with _Frames() as frames:
        first = frames.values(slices[0])  # before memory is taken for as many as the headers say
        try:
            data = np.empty((columns, rows, len(slices)), np.float32)
            block = np.empty((SLICES_AT_ONCE, rows, columns), np.float32)
        except MemoryError as error:
            raise DicomError(
                f"{slices[0].source.file.path}: {len(slices)} slices of {rows} x {columns} need "
                f"{4 * rows * columns * len(slices) / 2**30:.1f} GiB of memory, more than there is."
            ) from error
        for start in range(0, len(slices), SLICES_AT_ONCE):
            part = slices[start : start + SLICES_AT_ONCE]
            for index, one in enumerate(part):
                # An impossible slope gives infinity or NaN, which `Volume` refuses.
                with np.errstate(over="ignore", invalid="ignore"):
                    block[index] = (first if one is slices[0] else frames.values(one)) * factors[start + index]
            data[:, :, start : start + len(part)] = block[: len(part)].transpose(2, 1, 0)
    return data


class _Frames:
    """Reads slices one after the other, and keeps a multi-frame file open meanwhile."""

    def __init__(self) -> None:
        self._header: Header | None = None
        self._stream: BinaryIO | None = None
        self._encoded: list[bytes] | None = None  # frames as they are in the file
        self._stored: np.ndarray | None = None  # all frames, as pydicom decodes them

    def __enter__(self) -> "_Frames":
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    def values(self, one: Slice) -> np.ndarray:
        """Stored values x RescaleSlope + RescaleIntercept, shape (rows, columns), float64."""
        path = one.source.file.path
        try:
            with warnings.catch_warnings(action="ignore"):
                values = self._plain(one)
                if values is None:
                    values = self._other(one)
        except DicomError:
            raise
        except UNREADABLE as error:
            text = str(error).strip()
            _refuse_pixels(path, text.splitlines()[-1] if text else type(error).__name__)
        if values.shape != (one.rows, one.columns):
            _refuse_pixels(
                path, f"decoded to {values.shape} instead of {one.rows} rows, {one.columns} columns"
            )
        return values

    def _plain(self, one: Slice) -> np.ndarray | None:
        """Uncompressed little-endian integers, read from their place in the file; None for any other form."""
        header, pixels = one.source.tags, one.source.pixels
        bits = number_of(header, "BitsAllocated", one.name)
        signed = number_of(header, "PixelRepresentation", one.name)
        syntax = header.file_meta.get("TransferSyntaxUID")
        is_plain = syntax in (None, uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian)
        if pixels is None or pixels.length is None or not is_plain or not header.original_encoding[1]:
            return None
        used_bits = number_of(header, "BitsStored", one.name) or 0
        if bits not in (8, 16, 32) or signed not in (0, 1) or not 1 <= used_bits <= bits:
            return None
        dtype = np.dtype(f"<{'i' if signed else 'u'}{int(bits) // 8}")
        size = one.rows * one.columns * dtype.itemsize
        expected = size * (1 if one.frame is None else _frames_in_file(one))
        if pixels.length - expected not in (0, expected % 2):
            return None  # pydicom knows what to make of it
        stream = self._open(one.source)
        stream.seek(pixels.offset + size * (one.frame or 0))
        content = stream.read(size)
        if len(content) < size:
            _refuse_pixels(one.source.file.path, f"{len(content)} of {size} bytes are there")
        stored = np.frombuffer(content, dtype).reshape(one.rows, one.columns)
        if used_bits < bits:  # the others may hold overlays, and a sign has to be carried into them
            unused_bits = int(bits - used_bits)
            stored = (stored << unused_bits) >> unused_bits
        return stored * one.slope + one.intercept

    def _other(self, one: Slice) -> np.ndarray:
        """Compressed, deflated or big-endian pixels."""
        syntax = one.source.tags.file_meta.get("TransferSyntaxUID")
        if syntax is not None and syntax.is_encapsulated:
            if one.rows * one.columns > MAX_PIXELS:
                _refuse_pixels(one.source.file.path, f"{one.rows} x {one.columns} pixels are more than {MAX_PIXELS}")
            try:
                return self._compressed(one)
            except RuntimeError:
                if syntax != uids.RLELossless:
                    raise  # else pydicom decodes what SimpleITK cannot: slices with an odd number of pixels
        if self._stored is None or self._header is not one.source:
            stream = self._open(one.source)
            stream.seek(0)
            whole = pydicom.dcmread(stream, force=True)
            if syntax is None:  # a file without preamble does not state its encoding; pydicom has detected it
                implicit = whole.original_encoding[0]
                whole.file_meta.TransferSyntaxUID = (
                    uids.ImplicitVRLittleEndian if implicit else uids.ExplicitVRLittleEndian
                )
            self._stored = whole.pixel_array
        several = one.frame is not None and _frames_in_file(one) > 1
        return (self._stored[one.frame] if several else self._stored) * one.slope + one.intercept

    def _compressed(self, one: Slice) -> np.ndarray:
        """A compressed slice, decoded as a file of its own, from whose header damage has been left out.

        SimpleITK brings decoders for JPEG, JPEG-LS, JPEG 2000 and RLE.
        """
        if self._encoded is None or self._header is not one.source:
            stream = self._open(one.source)
            stream.seek(0)
            encoded = pydicom.dcmread(stream, force=True).PixelData
            self._encoded = list(generate_frames(encoded, number_of_frames=_frames_in_file(one)))
        import SimpleITK

        meta = FileMetaDataset()
        meta.TransferSyntaxUID = one.source.tags.file_meta.TransferSyntaxUID
        single = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        meta.MediaStorageSOPClassUID = single.SOPClassUID = uids.SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = single.SOPInstanceUID = uids.UID("1.2.3")
        for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation"):
            setattr(single, keyword, one.source.tags[keyword].value)
        single.SamplesPerPixel, single.Rows, single.Columns = 1, one.rows, one.columns
        single.PixelData = pydicom.encaps.encapsulate([self._encoded[one.frame or 0]])
        single["PixelData"].is_undefined_length = True
        buffer = io.BytesIO()
        single.save_as(buffer, enforce_file_format=True)
        with temporary_folder() as folder:
            path = folder / "frame.dcm"
            path.write_bytes(buffer.getvalue())
            stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
        return stored.astype(float) * one.slope + one.intercept

    def _open(self, header: Header) -> BinaryIO:
        if self._header is not header:
            self._close()
            self._header, self._stream = header, header.file.open()
        return self._stream

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._header = self._stream = self._encoded = self._stored = None


def _frames_in_file(one: Slice) -> int:
    """Number of frames in the slice's file."""
    return int(number_of(one.source.tags, "NumberOfFrames", one.name) or 1)


def _refuse_pixels(path: Path, why: str) -> NoReturn:
    raise DicomError(f"{path}: pixels cannot be read ({why}). The file may be truncated; copy it again.")
