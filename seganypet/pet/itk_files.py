"""NRRD and MetaImage files, the formats of ITK, 3D Slicer and elastix.

Read here and not by SimpleITK, which crashes on some damaged headers, gives other voxels where a compressed MetaImage
is cut short, takes voxels of unknown size for 1 mm, and passes over units of length and a MetaImage's slope. Tests
compare both.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seganypet._files import reading, system_reason
from seganypet.errors import GeometryError, VolumeError
from seganypet.pet.grids import LPS_TO_RAS
from seganypet.pet.image_file import MAX_COMPRESSION, ImageFile, check_size, millimetres, scaled

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
MAX_HEADER_BYTES = 2**22
_NRRD_TYPES = {
    "char": "i1", "int8": "i1", "short": "i2", "int16": "i2", "int": "i4", "int32": "i4", "long long": "i8",
    "longlong": "i8", "int64": "i8", "float": "f4", "double": "f8",
}  # fmt: skip
_META_TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
    "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip
# From the axes of a space to RAS+; of other spaces nobody knows where the patient's left is.
_SPACES = {"left-posterior-superior": (-1, -1, 1), "right-anterior-superior": (1, 1, 1),
           "left-anterior-superior": (-1, 1, 1)}  # fmt: skip
_SPACES |= {"".join(word[0] for word in name.split("-")): signs for name, signs in _SPACES.items()}
_UNITS = {
    "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m", "micron": "um", "\u00b5m": "um",
    "micrometer": "um", "micrometre": "um",
}  # fmt: skip
_NO_ORIENTATION = (
    "the header has no orientation; its axes were assumed to run to the left, to the back and up, as ITK takes them, "
    "so left and right are a guess. Write the file again with its orientation."
)
_NO_ORIGIN = "the header has no origin; the first voxel was assumed to lie at 0, 0, 0."


@dataclass(frozen=True)
class _Header:
    """What a header says.

    Attributes:
        sizes: Number of voxels along every axis of the file.
        item: Type of a voxel.
        affine: Map from voxel indices to RAS+, in the file's unit of length.
        encoding: "raw" or "gzip" (or zlib).
        data_file: Name of the file that holds the voxels; None if this one does.
        skip: Bytes before the voxels; -1: whatever is there.
        unit: Unit of length; None if the header names none.
        assumptions: As `ImageFile.assumptions`.
        scaling: Slope and offset of the stored values.
    """

    sizes: tuple[int, ...]
    item: np.dtype
    affine: np.ndarray
    encoding: str
    data_file: str | None
    skip: int
    unit: str | None
    assumptions: tuple[str, ...]
    scaling: tuple[float, float] = (1.0, 0.0)


def open_itk(path: Path, length_unit: str | None = None) -> ImageFile:
    """Open a NRRD or MetaImage file; arguments and errors as `volume.open_image`."""
    source = str(path)
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    try:
        fields, begins = _text_header(path, is_nrrd)
        header = (_nrrd if is_nrrd else _meta_image)(fields, source)
        data_path = path if header.data_file is None else path.parent / header.data_file
        if not data_path.is_file():
            raise VolumeError(f"{path}: its voxels lie in {data_path}, which is missing; copy both into one folder.")
        there = data_path.stat().st_size - (begins if header.data_file is None else 0)
    except OSError as error:
        raise VolumeError(f"cannot read {path}: {system_reason(error)}") from error
    possible = there * (MAX_COMPRESSION if header.encoding == "gzip" else 1)
    shape = check_size(header.sizes, header.item.itemsize, possible, source)
    claimed = int(np.prod(shape)) * header.item.itemsize
    skip = there - claimed if header.skip == -1 else header.skip
    if header.encoding == "raw" and there != skip + claimed:
        raise VolumeError(
            f"{source}: {there} bytes of voxels, but its header claims {skip + claimed}: it was cut short, or has "
            "another shape or beginning. Copy it again, or save it again with the program that made it."
        )
    sizes = np.linalg.norm(header.affine[:3, :3], axis=0)
    factor, contradiction = millimetres(sizes, header.unit, length_unit, source)
    begins = skip + (begins if header.data_file is None else 0)
    slope, offset = header.scaling

    def read(scaled_as: type | None = None) -> np.ndarray:
        try:
            content = (_unpacked if header.encoding == "gzip" else _plain)(data_path, begins, claimed)
        except (OSError, zlib.error, MemoryError) as error:
            raise _unreadable(source, error) from error
        data = content.view(header.item).reshape(shape, order="F")
        return data if header.scaling == (1, 0) else scaled(data, lambda part: part * slope + offset, scaled_as)

    return ImageFile(
        source, shape, np.diag([factor, factor, factor, 1.0]) @ header.affine, read, contradiction=contradiction,
        assumptions=header.assumptions, step=abs(slope) if header.item.kind in "iu" and slope != 1 else 0.0,
    )  # fmt: skip


def _text_header(path: Path, is_nrrd: bool) -> tuple[dict[str, str], int]:
    """Fields of the header by their names in small letters, and the byte after it."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if is_nrrd and not re.match(rb"NRRD\d{4}\s", file.readline(MAX_HEADER_BYTES)):
            raise _unreadable(str(path), "it does not begin with NRRD")
        while (left := MAX_HEADER_BYTES - file.tell()) > 0 and (line := file.readline(left)):
            text = line.decode("utf-8", "replace").strip()
            if is_nrrd and not text:
                break
            name, separator, value = text.partition(":" if is_nrrd else "=")
            if separator and not text.startswith("#") and not (is_nrrd and value.startswith("=")):  # := is free text
                fields[" ".join(name.lower().split())] = value.strip()
            if "elementdatafile" in fields:
                break
        return fields, file.tell()


def _nrrd(fields: Mapping[str, str], source: str) -> _Header:
    sizes = _sizes(fields, "sizes", "dimension", source)
    vectors, units = _nrrd_axes(fields, len(sizes), source)
    spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
    others = [sizes[axis] for axis in range(len(sizes)) if axis not in spatial]
    if others and max(others) > 1:
        raise VolumeError(
            f"{source}: {max(others)} numbers in every voxel; expected one. Of a segmentation with layers, or of a "
            "dynamic scan, save one layer or frame as a volume of its own."
        )
    space = fields.get("space", "").lower()
    if space and space not in _SPACES:
        raise GeometryError(
            f"{source}: its space is {fields['space']!r}, which does not say where the patient's left is; expected "
            f"{', '.join(name for name in _SPACES if '-' in name)}."
        )
    assumptions = () if space and "space directions" in fields else (_NO_ORIENTATION,)
    affine = np.eye(4)
    if len(spatial) == 3:
        affine[:3, :3] = np.column_stack([vectors[axis] for axis in spatial])
    if "space origin" in fields:
        affine[:3, 3] = _numbers(fields, "space origin", source, 3)
    else:
        assumptions += (_NO_ORIGIN,)
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz") or fields.get("line skip", "0") != "0":
        raise VolumeError(
            f"{source}: encoding {encoding!r}, line skip {fields.get('line skip', '0')}; expected raw or gzip without "
            "lines to skip. Save it again."
        )
    return _Header(
        tuple(sizes[axis] for axis in spatial), _nrrd_type(fields, source),
        np.diag([*_SPACES.get(space, (-1, -1, 1)), 1.0]) @ affine, "raw" if encoding == "raw" else "gzip",
        _data_file(fields.get("data file", fields.get("datafile")), source),
        _skip(fields.get("byte skip", "0"), encoding == "raw", source), units, assumptions,
    )  # fmt: skip


def _nrrd_axes(fields: Mapping[str, str], count: int, source: str) -> tuple[list[np.ndarray | None], str | None]:
    """Step along each axis, None of one without a place; and the unit of length."""
    vectors: list[np.ndarray | None] = []
    if "space directions" in fields:
        for text in re.findall(r"none|\([^)]*\)", fields["space directions"].lower()):
            vectors.append(None if text == "none" else _numbers({"direction": text}, "direction", source, 3))
    elif "spacings" in fields:
        spacings = _numbers(fields, "spacings", source, count, finite=False)
        spatial = iter(np.eye(3))
        vectors = [None if np.isnan(spacing) else spacing * next(spatial, np.zeros(3)) for spacing in spacings]
    if not any(vector is not None for vector in vectors):
        raise GeometryError(f"{source}: its header has no voxel size (space directions, spacings); save it with one.")
    if len(vectors) != count:
        raise _unreadable(source, f"{len(vectors)} space directions for {count} sizes")
    field = "space units" if "space units" in fields else "units"
    named = {name.strip() for name in re.findall(r'"([^"]*)"', fields.get(field, ""))} - {"", "???"}
    return vectors, " and ".join(sorted(_UNITS.get(name.lower(), name) for name in named)) or None


def _nrrd_type(fields: Mapping[str, str], source: str) -> np.dtype:
    words = fields.get("type", "").lower().removesuffix("_t")
    name = re.sub(r"^(unsigned\s+|signed\s+|u)", "", words)
    code = _NRRD_TYPES.get(name) or _NRRD_TYPES.get(name.removesuffix("int").strip())
    endian = fields.get("endian", "").lower()
    if code is None or (code[1] != "1" and endian not in ("little", "big")):
        raise VolumeError(
            f"{source}: voxels of type {words!r}, endian {endian!r}; expected integers or real numbers, little or big."
        )
    if words.startswith("u"):
        code = code.replace("i", "u")
    return np.dtype(code).newbyteorder(">" if endian == "big" else "<")


def _meta_image(fields: Mapping[str, str], source: str) -> _Header:
    if "elementdatafile" not in fields:
        raise _unreadable(source, "it has no header of a MetaImage")
    sizes = _sizes(fields, "dimsize", "ndims", source)
    count = len(sizes)
    code = _META_TYPES.get(fields.get("elementtype", "").upper().removeprefix("MET_"))
    if code is None or fields.get("elementnumberofchannels", "1") != "1" or not _is(fields, "binarydata", "true"):
        raise VolumeError(
            f"{source}: voxels of type {fields.get('elementtype')}, {fields.get('elementnumberofchannels', '1')} in "
            f"each place, BinaryData {fields.get('binarydata', 'True')}; expected one binary integer or real number."
        )
    spacing_field = next((name for name in ("elementspacing", "elementsize") if name in fields), None)
    if spacing_field is None:
        raise GeometryError(f"{source}: its header has no voxel size (ElementSpacing); save it again with one.")
    spacing = _numbers(fields, spacing_field, source, count)
    matrix_field = next((name for name in ("transformmatrix", "rotation", "orientation") if name in fields), None)
    origin_field = next((name for name in ("offset", "position", "origin") if name in fields), None)
    # Its rows are the directions of the axes.
    matrix = np.eye(count) if matrix_field is None else _numbers(fields, matrix_field, source, count**2)
    direction = matrix.reshape(count, count).T
    lengths = np.linalg.norm(direction, axis=0)
    if not np.allclose(lengths, 1, atol=1e-3):
        raise GeometryError(
            f"{source}: the directions of its axes have lengths {lengths.round(3).tolist()}; expected 1, or they "
            "contradict its voxel sizes. Save it again with the program that made it."
        )
    affine = np.eye(4)
    if count >= 3:
        affine[:3, :3] = direction[:3, :3] * spacing[:3]
        affine[:3, 3] = 0 if origin_field is None else _numbers(fields, origin_field, source, count)[:3]
    big = _is(fields, "binarydatabyteordermsb") or _is(fields, "elementbyteordermsb")
    packed = _is(fields, "compresseddata")
    data_file = _data_file(fields["elementdatafile"], source)
    unit = fields.get("distanceunits", "?").strip("?").lower() or None
    scaling = {"elementtointensityfunctionslope": "1", "elementtointensityfunctionoffset": "0", **fields}
    slope, offset = (float(_numbers(scaling, f"elementtointensityfunction{name}", source, 1)[0]) for name in
                     ("slope", "offset"))  # fmt: skip
    scaled = (
        f"its header scales stored values by {slope:g} and shifts them by {offset:g} (ElementToIntensityFunction); "
        "this was done, but SimpleITK and other programs of ITK leave it out."
    )
    return _Header(
        sizes, np.dtype(code).newbyteorder(">" if big else "<"), LPS_TO_RAS @ affine,
        "gzip" if packed else "raw", data_file,
        _skip(fields.get("headersize", "0"), data_file is not None and not packed, source),
        None if unit is None else _UNITS.get(unit, unit),
        (() if matrix_field else (_NO_ORIENTATION,)) + (() if origin_field else (_NO_ORIGIN,))
        + (() if (slope, offset) == (1, 0) else (scaled,)),
        (slope, offset),
    )  # fmt: skip


def _is(fields: Mapping[str, str], name: str, default: str = "false") -> bool:
    return fields.get(name, default).lower() in ("true", "1")


def _numbers(
    fields: Mapping[str, str], name: str, source: str, count: int | None = None, finite: bool = True
) -> np.ndarray:
    """The numbers of one field, float64; VolumeError unless there are `count`."""
    text = fields.get(name, "")
    try:
        numbers = np.array([float(word) for word in re.split(r"[\s,()]+", text.strip(" ()\t")) if word])
    except ValueError:
        numbers = np.empty(0)
    if numbers.size == 0 or count not in (None, numbers.size) or (finite and not (np.abs(numbers) < 1e15).all()):
        raise _unreadable(source, f"{name} {text[:60]!r}, expected {count or 'some'} numbers")
    return numbers


def _sizes(fields: Mapping[str, str], name: str, count: str, source: str) -> tuple[int, ...]:
    """Whole numbers, as many as the field `count` says."""
    sizes = _numbers(fields, name, source)
    if fields.get(count, "") != str(sizes.size):
        raise _unreadable(source, f"{name} {fields[name]!r}, but {count} {fields.get(count, '')!r}")
    if not np.array_equal(sizes, np.rint(sizes)):
        raise _unreadable(source, f"{name} {fields[name]!r}, expected whole numbers")
    return tuple(int(size) for size in sizes)


def _data_file(named: str | None, source: str) -> str | None:
    if named is None or named.upper() == "LOCAL":
        return None
    if named.upper().startswith("LIST") or "%" in named:
        raise VolumeError(f"{source}: its voxels lie in several files; save it as one, such as scan.nii.gz.")
    if Path(named).is_absolute() or ".." in Path(named).parts:  # or a header could pass any file off as voxels
        raise VolumeError(f"{source}: its voxels lie in {named}; expected a file in its own folder. Copy both there.")
    return named


def _skip(text: str, allowed: bool, source: str) -> int:
    if not re.fullmatch(r"-1|\d{1,9}", text) or (text != "0" and not allowed):
        raise VolumeError(
            f"{source}: {text} bytes to be skipped before its voxels, which is read of plain files only. Save it again."
        )
    return int(text)


def _plain(path: Path, begins: int, size: int) -> np.ndarray:
    content = np.fromfile(path, np.uint8, size, offset=begins)
    if content.size < size:
        raise OSError(f"{size - content.size} bytes are missing")
    return content


def _unpacked(path: Path, begins: int, size: int) -> np.ndarray:
    """The unpacked bytes; zlib.error unless they are `size` and their checksum is right."""
    unpack = zlib.decompressobj(wbits=47)  # of zlib or gzip
    content = np.empty(size, np.uint8)  # takes no memory before the file fills it
    filled = 0
    with path.open("rb") as file:
        file.seek(begins)
        while not unpack.eof:
            packed = unpack.unconsumed_tail or file.read(2**20)
            piece = unpack.decompress(packed, 2**24)
            if not packed or filled + len(piece) > size:
                raise zlib.error(f"{filled + len(piece)} bytes unpacked, expected {size}")
            content[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
        if any(unpack.unused_data) or any(file.read(2**16)):
            raise zlib.error("more follows than its header claims")
    if filled != size:
        raise zlib.error(f"{filled} bytes unpacked, expected {size}")
    return content


def check_attached(path: Path) -> None:
    """Raise VolumeError if a NRRD file says that its voxels lie in another: that could be any file of this machine.

    Nothing else is read before; where libraries see the end of a line or of the header differs, so all of it counts.
    """
    with reading(path, VolumeError), path.open("rb") as file:
        header, end, _ = file.read(MAX_HEADER_BYTES).replace(b"\r", b"\n").partition(b"\n\n")
    if not end or re.search(rb"data\s*file\s*:", header, re.IGNORECASE):
        raise VolumeError(f"{path}: a header without voxels; expected both in one file. Save it as one.")


def check_packed(path: Path, size: int) -> bool:
    """Whether a NRRD file has packed voxels; VolumeError unless they are `size` bytes, and their checksum is right."""
    try:
        fields, begins = _text_header(path, is_nrrd=True)
        is_packed = fields.get("encoding", "").lower() in ("gzip", "gz")
        if is_packed:
            _unpacked(path, begins, size)
        return is_packed
    except (OSError, zlib.error, MemoryError) as error:
        raise _unreadable(str(path), error) from error


def _unreadable(source: str, why: object) -> VolumeError:
    return VolumeError(f"{source}: not a readable NRRD or MetaImage file, or cut short ({why}). Copy it again.")
