"""Masks that a study keeps: <folder>/<case>/<model>/<target>.nii.gz, on the grid of the scan."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from seganypet._files import as_path, make_folder, unsafe_name
from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import Volume, save_mask


def folder_of(masks: str | os.PathLike, case: str, model: str) -> Path:
    """Folder of the masks of a case by a model; what a file system does not take in their names becomes "_"."""
    return as_path(masks) / _file_name(case) / _file_name(model)


def mask_path(masks: str | os.PathLike, case: str, model: str, target: str) -> Path:
    """File of the mask of a target."""
    return folder_of(masks, case, model) / f"{_file_name(target)}.nii.gz"


def keep_mask(
    masks: str | os.PathLike | None, case: str, model: str, target: str, mask: np.ndarray, scan: Volume
) -> None:
    """Write the mask of a target; nothing without a folder.

    Raises:
        SegAnyPETError: It cannot be written.
    """
    if masks is None:
        return
    path = mask_path(masks, case, model, target)
    make_folder(path.parent)
    save_mask(path, mask.astype(np.uint8), like=scan)


def masks_written(masks: str | os.PathLike | None, case: Any, method: Any) -> dict[str, Path]:
    """What a study says in `writes`: if a mask was removed or changed, the case is measured again."""
    return {} if masks is None else {"masks": folder_of(masks, case.name, method.name)}


def check_mask_names(masks: str | os.PathLike | None, cases: Iterable[Any], methods: Iterable[Any]) -> None:
    """Raise SegAnyPETError if two cases or two models would share a folder, or the folder cannot be made."""
    if masks is None:
        return
    make_folder(masks)
    for kind, things in (("case", cases), ("model", methods)):
        if found := unsafe_name(_file_name(thing.name) for thing in things):
            raise SegAnyPETError(f"{kind}: {found[0]!r} cannot name a folder of masks: {found[1]}. Rename it.")


def _file_name(name: str) -> str:
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name).strip(" .") or "_"
