"""Weights as people have them: what a file is by its first bytes, and the layouts that trainers save tensors in."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seganypet._files import reading
from seganypet.errors import CheckpointError, first_line

PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")  # endings of what torch.save writes; "x.pth.tar" among them
# Where trainers put the tensors, first what a run exports: our own checkpoint has averaged weights beside the raw ones.
WRAPPINGS = ("average", "model_state_dict", "state_dict", "model")
# What is put before each name by torch.compile, by DataParallel, and by a LightningModule that holds the network.
PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "network.")
# Classes that a file of torch.save may hold beside tensors: a release's command line, numbers of NumPy.
_SCALAR = np.float64(0).__reduce__()[0]  # what makes a number of NumPy when it is unpickled
ALLOWED: list[Any] = [
    argparse.Namespace, np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 called it
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]  # fmt: skip
_FOUND = ("image_encoder.", "prompt_encoder.", "mask_decoder.")


def check_is_weights(path: Path) -> None:
    """Refuse what is no file of weights, whatever it is called.

    Raises:
        CheckpointError: A web page, or a pointer of Git LFS, in its place; an empty file, or one that cannot be read.
    """
    with reading(path, CheckpointError), path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path}: is empty. Copy or download it again.")
    if start.lstrip()[:15].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path}: is a web page, no weights: the server answered with a page, as for a log-in or a licence. Open "
            "the address in a browser, accept what it asks for, and download the file itself."
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: is a pointer of Git LFS, not the weights that it stands for. In its repository: git lfs pull."
        )


def read_pickled(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a file that `torch.save` wrote, under the names of a released network.

    Raises:
        CheckpointError: It is cut short, holds something else than tensors and plain values, or no weights.
    """
    check_archive(path)
    try:
        # Releases keep their command line beside the weights, trainers numbers of NumPy; no other class is let in.
        with torch.serialization.safe_globals(ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds something else than tensors, or is no PyTorch file ({first_line(error)}). It was not "
            "opened: such a file can run code. Where it was made, save the tensors alone: "
            "torch.save(model.state_dict(), path), or as safetensors."
        ) from error
    except Exception as error:  # whatever its unpickler meets
        raise CheckpointError(f"{path}: damaged or cut short ({first_line(error)}). Copy it again.") from error
    weights = state_dict_of(content, str(path))
    if sum(value.numel() * value.element_size() for value in weights.values()) > path.stat().st_size:
        raise CheckpointError(f"{path}: its tensors claim more bytes than the file has. Copy it again.")
    return weights


def check_archive(path: Path) -> None:
    """Check the checksums of a file that `torch.save` wrote, before anything in it is believed.

    Raises:
        CheckpointError: It is no such file, is damaged, or unpacks to more than it is.
    """
    try:
        with reading(path, CheckpointError), zipfile.ZipFile(path) as archive:
            claimed = sum(info.file_size for info in archive.infolist())
            if claimed > path.stat().st_size:
                raise CheckpointError(f"{path}: would unpack to {claimed} bytes, which PyTorch's files do not.")
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path}: no PyTorch file, or cut short ({error}). It was not opened: such a file can run code. Copy it "
            "again, or ask its author for a safetensors file. One of PyTorch before 1.6 has no checksums; save it anew."
        ) from error
    except Exception as error:  # of headers that were damaged
        raise CheckpointError(f"{path}: damaged or cut short ({first_line(error)}). Copy it again.") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged (the checksum of {damaged} is wrong). Copy it again.")


def state_dict_of(content: Any, source: str) -> dict[str, torch.Tensor]:
    """The tensors in what a trainer saved, without what is wrapped around them or put before their names.

    Raises:
        CheckpointError: There are none.

    >>> wrapped = {"epoch": 3, "state_dict": {"model._orig_mod.mask_decoder.weight": torch.ones(1)}}
    >>> state_dict_of(wrapped, "run.ckpt")
    {'mask_decoder.weight': tensor([1.])}
    """
    weights = content
    for name in WRAPPINGS:
        inner = weights.get(name) if isinstance(weights, Mapping) else None
        if isinstance(inner, Mapping) and inner:
            weights = inner
            break
    if not isinstance(weights, Mapping) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        found = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"{source}: no tensors under {', '.join(WRAPPINGS[1:])} in it; found: {found}.")
    return {_plain(str(key)): value for key, value in weights.items()}


def _plain(key: str) -> str:
    while not key.startswith(_FOUND) and (prefix := next((one for one in PREFIXES if key.startswith(one)), "")):
        key = key.removeprefix(prefix)
    return key
