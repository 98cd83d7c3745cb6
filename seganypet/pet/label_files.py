"""Label maps whose objects have names: NIfTI with a table of labels in its header, and 3D Slicer's `.seg.nrrd`.

In NIfTI the names stand in a header extension, a table of labels as TotalSegmentator writes and reads it; other
programs ignore it and see a plain label map. Objects that overlap need several layers, which only `.seg.nrrd` has.
"""

import colorsys
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np

from seganypet._files import utf8_path
from seganypet.errors import VolumeError, WriteError, warn_caller
from seganypet.pet.grids import LPS_TO_RAS
from seganypet.pet.image_file import MAX_COMPRESSION, check_labels, check_size
from seganypet.pet.itk_files import check_attached, check_packed
from seganypet.pet.mask_grid import Layer, unique_names
from seganypet.pet.volume import Volume, open_image, save_mask
from seganypet.regions import bounding_box, label_sizes

MAX_LABEL = 255  # of a uint8 map
MAX_LAYERS_BYTES = 4 * 2**30


def names_in_file(path: str | os.PathLike) -> dict[int, str]:
    """Name of each label but the background, from the header of a label map; empty without any."""
    return {label: name for label, name in names_in_header(open_image(path).header).items() if label}


def names_in_header(header: nib.Nifti1Header | None) -> dict[int, str]:
    """Name of each label, from the table of labels in a NIfTI header; empty without one."""
    for extension in [] if header is None else header.extensions:
        names = _label_table(extension)
        if names:
            return names
    return {}


def _label_table(extension: nib.nifti1.NiftiExtension) -> dict[int, str]:
    try:
        table = ElementTree.fromstring(extension.content.strip(b"\0 \n")).iter("Label")
        return {int(label.get("Key", "")): (label.text or "").strip() for label in table}
    except (ElementTree.ParseError, ValueError, LookupError):
        return {}  # an extension of another program


def read_nifti(path: Path) -> tuple[list[Layer], np.ndarray]:
    """The label map of a NIfTI file as one layer, and its affine.

    Labels without a name are called "label 3"; the only label of a file without names has the file's name.

    Raises:
        VolumeError: The file is not a readable label map.
    """
    image = open_image(path)
    image.check_geometry()
    labels, names = image.labels(), names_in_header(image.header)
    present = np.flatnonzero(label_sizes(labels))[1 if (labels == 0).any() else 0 :].tolist()
    if not names and len(present) == 1:
        names = {present[0]: re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)}
    named = unique_names([names.get(label) or f"label {label}" for label in present], str(path))
    return [Layer(labels, dict(zip(present, named, strict=True)))], image.affine


def write_nifti(path: Path, masks: Mapping[str, np.ndarray], like: Volume) -> None:
    """Write objects as one uint8 label map: 1, 2, ... in their order; where they overlap, the last one is kept.

    Raises:
        VolumeError: There are more than 255 objects.

    Warns:
        UserWarning: Objects overlap: how many voxels of which went to which.
    """
    if len(masks) > MAX_LABEL:
        raise VolumeError(
            f"{path}: {len(masks)} objects; a uint8 label map holds {MAX_LABEL}. Save as .seg.nrrd or DICOM SEG."
        )
    labels = np.zeros(like.shape, np.uint8)
    for label, (name, mask) in enumerate(masks.items(), 1):
        counts = np.bincount(labels[mask], minlength=label)
        for taken, other in enumerate(list(masks)[: label - 1], 1):
            if counts[taken]:
                warn_caller(
                    f"{path}: a label map holds one object in each voxel; {counts[taken]} of "
                    f"{np.count_nonzero(masks[other])} voxels of {other!r} also belong to {name!r} and went to it. To "
                    "keep both, save as .seg.nrrd, DICOM SEG or RTSTRUCT, or into a folder with a file for each."
                )
        labels[mask] = label
    save_mask(path, labels, replace(like, header=_header_with_names(masks, like)))


def _header_with_names(names: Iterable[str], like: Volume) -> nib.Nifti1Header:
    header = like.header
    if header is None:
        image_class = nib.Nifti1Image if max(like.shape) < 2**15 else nib.Nifti2Image
        header = image_class(np.broadcast_to(np.uint8(0), like.shape), like.affine).header
        header.set_xyzt_units("mm")
    header = header.copy()
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for label, name in enumerate(names, 1):
        red, green, blue = colour_of(label)
        attributes = {"Key": str(label), "Red": f"{red:.3f}", "Green": f"{green:.3f}", "Blue": f"{blue:.3f}"}
        ElementTree.SubElement(table, "Label", attributes, Alpha="1").text = name
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    ours = nib.nifti1.Nifti1Extension(0, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    header.extensions[:] = [ours, *(other for other in header.extensions if not _label_table(other))]
    return header


def colour_of(number: int) -> tuple[float, float, float]:
    """Colours of consecutive numbers that are far apart, as red, green and blue from 0 to 1."""
    return colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.75, 0.95)


def read_seg_nrrd(path: Path) -> tuple[list[Layer], np.ndarray]:
    """The layers of a 3D Slicer segmentation, or the label map of a plain NRRD file, and its affine.

    Raises:
        VolumeError: The file is missing or damaged, or its voxels are no labels.
    """
    import SimpleITK

    if not path.is_file():
        raise VolumeError(f"{path} does not exist; expected a NRRD file.")
    name = utf8_path(path)
    check_attached(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(name)
    try:
        reader.ReadImageInformation()
        sizes = reader.GetSize()
        if len(sizes) != 3:
            raise VolumeError(f"{path}: {len(sizes)}D; expected a 3D segmentation.")
        # A damaged header may claim more than fits into memory. gzip compresses by at most a factor of 1032.
        item = SimpleITK.Image([1, 1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
        item_bytes = item.GetSizeOfPixelComponent() * reader.GetNumberOfComponents()
        check_size(sizes, item_bytes, MAX_COMPRESSION * path.stat().st_size, str(path))
        if math.prod(sizes) * item_bytes > MAX_LAYERS_BYTES:
            raise VolumeError(f"{path}: its layers have {math.prod(sizes) * item_bytes} bytes; save fewer in one file.")
        check_packed(path, math.prod(sizes) * item_bytes)
        image = reader.Execute()
        data = SimpleITK.GetArrayFromImage(image)  # (k, j, i), or (k, j, i, layer)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise VolumeError(f"{path}: not a readable NRRD file, or cut short ({reason}). Copy it again.") from error
    data = (data if data.ndim == 4 else data[..., None]).transpose(3, 2, 1, 0)  # (layer, i, j, k)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    checked = [check_labels(layer, str(path)) for layer in data]
    layers = [Layer(checked[layer], {label: name}) for layer, label, name in _segments(image, len(data), path)]
    if not layers:  # a plain label map
        layers = [Layer(labels, {int(label): f"label {label}" for label in np.unique(labels) if label})
                  for labels in checked]  # fmt: skip
    return layers, LPS_TO_RAS @ affine


def _segments(image: Any, n_layers: int, path: Path) -> list[tuple[int, int, str]]:
    """Layer, label and name of each segment, from the keys that Slicer writes."""

    def value(number: int, key: str, default: object) -> str:
        key = f"Segment{number}_{key}"
        return image.GetMetaData(key) if image.HasMetaDataKey(key) else str(default)

    numbers: list[int] = []
    while any(image.HasMetaDataKey(f"Segment{len(numbers)}_{key}") for key in ("ID", "Name", "LabelValue")):
        numbers.append(len(numbers))
    names = unique_names((value(number, "Name", value(number, "ID", "")) for number in numbers), str(path), "segment")
    segments = []
    for number, name in zip(numbers, names, strict=True):
        try:
            # Before Slicer 4.11 each segment had a layer of its own, and its label was 1.
            layer, label = int(value(number, "Layer", number)), int(value(number, "LabelValue", 1))
            if not 0 <= layer < n_layers:
                raise ValueError(layer)
            segments.append((layer, label, name))
        except ValueError as error:
            raise VolumeError(
                f"{path}: segment {name!r} has layer {value(number, 'Layer', number)} and label "
                f"{value(number, 'LabelValue', 1)}; expected whole numbers, and a layer below {n_layers}."
            ) from error
    return segments


def write_seg_nrrd(path: Path, masks: Mapping[str, np.ndarray], like: Volume) -> None:
    """Write objects as 3D Slicer writes a segmentation: uint8, as few layers as overlaps need; not yet atomically."""
    import SimpleITK

    layers: list[np.ndarray] = []
    counts: list[int] = []
    keys: dict[str, str] = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",  # what readers before Slicer 5 ask for
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, (name, mask) in enumerate(masks.items()):
        for layer, labels in enumerate(layers):
            if counts[layer] < MAX_LABEL and not labels[mask].any():
                break
        else:
            layer = len(layers)
            layers.append(np.zeros(like.shape, np.uint8))
            counts.append(0)
        counts[layer] += 1
        layers[layer][mask] = counts[layer]
        box = bounding_box(mask) or (slice(0, 0),) * 3
        keys |= {
            f"Segment{number}_{key}": text
            for key, text in {
                "ID": f"Segment_{number + 1}",
                "Name": name,
                "NameAutoGenerated": "0",
                "Color": " ".join(f"{part:.3f}" for part in colour_of(number + 1)),
                "ColorAutoGenerated": "1",
                "Extent": " ".join(f"{part.start} {part.stop - 1}" for part in box),
                "Layer": str(layer),
                "LabelValue": str(counts[layer]),
                "Tags": "",
            }.items()
        }
    data = np.stack([layer.transpose(2, 1, 0) for layer in layers], axis=-1)  # (k, j, i, layer)
    image = SimpleITK.GetImageFromArray(data if len(layers) > 1 else data[..., 0], isVector=len(layers) > 1)
    lps = LPS_TO_RAS @ like.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for key, text in keys.items():
        image.SetMetaData(key, text)
    try:
        SimpleITK.WriteImage(image, utf8_path(path), useCompression=True)
        if not check_packed(path, data.nbytes):  # on a full disk SimpleITK writes half a file and says nothing
            raise VolumeError("its header was cut")
    except (RuntimeError, VolumeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise WriteError(f"cannot write {path} ({reason}). Is the disk full? Make room, or choose another.") from error
