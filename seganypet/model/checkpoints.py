"""Weights in and out: files written here, released checkpoints, and names on the Hugging Face hub."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from seganypet._files import as_path, read_json, reading, replace_atomically
from seganypet.errors import CheckpointError, WriteError, first_line
from seganypet.model.config import RELEASED, ModelConfig
from seganypet.model.devices import find_device, limit_threads
from seganypet.model.hub import NETWORKS, SAM_FILES, WEIGHTS, locate
from seganypet.model.layouts import PICKLED, check_is_weights, read_pickled, state_dict_of
from seganypet.model.locator import Locator, LocatorConfig
from seganypet.model.sam2d import CLICK_PROMPTS, SAM_PROMPTS, Sam2D, transformers
from seganypet.model.sam3d import Sam3D

FORMAT, FORMAT_2D = "seganypet-weights-1", "seganypet-weights-2d-1"
FORMAT_LOCATOR = "seganypet-locator-1"
METADATA = "facts"  # the key of these formats
MAX_NUMBER = 1024  # of voxels, blocks, heads or channels that a header claims and few tensors show
CHECKSUM = "sha256"  # beside them, in the header of the file


def load_model(name_or_path: str | os.PathLike, device: str | torch.device = "auto") -> Sam3D | Sam2D:
    """Open a network, ready for inference.

    Args:
        name_or_path: A name in `hub.NETWORKS`, whose weights come with the package or are downloaded from the Hugging
            Face hub into its cache; or a path: `.safetensors` written by `save_model` or `save_sam`, a `.pth` in the
            layout of the SegAnyPET and SAM-Med3D releases, whose shape is read from its keys, or a folder with a 2D
            SAM as transformers saves it: config.json and model.safetensors.
        device: Device of the weights, see `devices.find_device`; "auto" takes a GPU if there is one.

    Returns:
        A 3D network, for `Session`, or a 2D one, for `SliceSession`.

    Raises:
        CheckpointError: Unknown name, missing or damaged file, or not the weights of such a network.
        SegAnyPETError: No such device; a 2D network, and the extra `slices` is not installed.
    """
    device = find_device(device)
    limit_threads()
    name = str(name_or_path)
    if name in NETWORKS:
        path = locate(name)
    else:
        path = as_path(name_or_path)
        with reading(path, CheckpointError):
            name, is_missing = path.name if path.is_dir() else path.stem, not path.exists()
        if is_missing:
            names = {size: [one for one, source in NETWORKS.items() if source.dimensions == size] for size in (3, 2)}
            raise CheckpointError(
                f"{name_or_path}: neither a file nor a known model. Known are {', '.join(names[3])}, and in 2D "
                f"{', '.join(names[2])}."
            )
    if not path.exists():
        raise CheckpointError(f"{path} is missing here; install seganypet again, or train it (see its card).")
    with reading(path, CheckpointError):
        model = _open_folder(path) if path.is_dir() else _open_file(path)
    model.name = name
    return model.eval().requires_grad_(False).to(device)


def save_model(path: str | os.PathLike, model: Sam3D, name: str, metadata: dict[str, Any] | None = None) -> None:
    """Write weights as float16 with all that is needed to use them again: shape, window, intensities.

    Args:
        path: File that ends in `.safetensors`; complete or absent, also after a crash.
        model: Network to save.
        name: Name of the network.
        metadata: Further information for a reader, such as how it was trained; must fit into JSON.

    Raises:
        CheckpointError: Another suffix.
    """
    header = {"format": FORMAT, "name": name, "config": asdict(model.config), METADATA: metadata or {}}
    _write_safetensors(path, model, header)


def save_sam(path: str | os.PathLike, model: Sam2D, metadata: dict[str, Any] | None = None) -> None:
    """As `save_model`, for a 2D network, whose shape is written as transformers' configuration."""
    header = {
        "format": FORMAT_2D, "name": model.name, "config": model.sam.config.to_dict(), "accepts": sorted(model.accepts),
        METADATA: metadata or {},
    }  # fmt: skip
    _write_safetensors(path, model.sam, header)


def save_locator(path: str | os.PathLike, model: Locator, metadata: dict[str, Any] | None = None) -> None:
    """As `save_model`, for a network that finds organs by itself."""
    header = {
        "format": FORMAT_LOCATOR, "name": "locator", "config": asdict(model.config), METADATA: metadata or {},
    }  # fmt: skip
    _write_safetensors(path, model, header)


def load_locator(path: str | os.PathLike | None = None) -> Locator:
    """Open a network that finds organs by itself, ready for inference.

    Args:
        path: `.safetensors` file that `save_locator` wrote; None: the one that comes with the package.

    Raises:
        CheckpointError: Missing or damaged file, or the weights of another network.
    """
    path = WEIGHTS / "locator.safetensors" if path is None else as_path(path)
    with reading(path, CheckpointError):
        if not path.exists():
            raise CheckpointError(f"{path} is missing; install seganypet again, or train it: tools/train_locator.py.")
    check_is_weights(path)
    weights, headers = _read_safetensors(path)
    config, metadata = _read_header(path, headers.get("seganypet", "{}"))
    if not isinstance(config, LocatorConfig):
        raise CheckpointError(f"{path}: a network to click on; expected a locator. Open it with load_model.")
    _check_content(path, weights, headers)
    model = Locator(config)
    _check_weights(weights, model.state_dict(), str(path))
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    model.name, model.metadata = path.stem, metadata
    return model.eval().requires_grad_(False)


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 of all weights as float32: names which network drew a mask."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def config_from_weights(weights: dict[str, torch.Tensor], source: str) -> ModelConfig:
    """Read the shape of a released network from its keys and tensor shapes.

    Depth is the number of blocks, a block's tables of relative positions tell its heads and its window, and
    blocks whose tables fit the token grid attend globally. Spacing and intensities are the release's.

    Raises:
        CheckpointError: If these are not such weights, with what was found.
    """
    patch = weights.get("image_encoder.patch_embed.proj.weight")
    if patch is None:
        raise CheckpointError(
            f"{source}: no image_encoder.patch_embed.proj.weight among its {len(weights)} tensors "
            f"(the first: {', '.join(list(weights)[:3]) or 'none'}); expected weights of a SAM-Med3D network."
        )
    if patch.ndim != 5:
        raise CheckpointError(f"{source}: patches are {patch.ndim - 2}D; this is a 2D SAM, expected a 3D one.")
    try:
        _, grid, *_, dim = weights["image_encoder.pos_embed"].shape
        blocks = {int(key.split(".")[2]) for key in weights if key.startswith("image_encoder.blocks.")}
        tables = [weights[f"image_encoder.blocks.{block}.attn.rel_pos_d"].shape for block in sorted(blocks)]
        sides = [(rows + 1) // 2 for rows, _ in tables]
        return replace(
            RELEASED,
            window_size=grid * patch.shape[-1],
            patch_size=patch.shape[-1],
            encoder_dim=dim,
            encoder_depth=len(tables),
            encoder_heads=dim // tables[0][1],
            prompt_dim=weights["image_encoder.neck.0.weight"].shape[0],
            decoder_mlp_dim=weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            attention_window=max(sides),
            global_blocks=tuple(index for index, side in enumerate(sides) if side == grid),
        )
    except (KeyError, ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f"{source}: not the weights of a SAM-Med3D network: {error}.") from error


def _open_file(path: Path) -> Sam3D | Sam2D:
    metadata: dict[str, Any] = {}
    check_is_weights(path)
    if path.suffix == ".safetensors":
        weights, headers = _read_safetensors(path)
        if "seganypet" in headers:
            config, metadata = _read_header(path, headers["seganypet"])
            _check_content(path, weights, headers)
        else:
            weights = state_dict_of(weights, str(path))
            config = config_from_weights(weights, str(path))
    elif path.suffix in PICKLED:
        weights = read_pickled(path)
        config = config_from_weights(weights, str(path))
    else:
        raise CheckpointError(f"{path}: expected a .safetensors, .pth, .pt or .ckpt file, or a folder with a 2D SAM.")
    if isinstance(config, LocatorConfig):
        raise CheckpointError(f"{path}: a locator, which takes no prompts. propose(volume) uses it.")
    if isinstance(config, dict):
        model = _sam(config, weights, path, config.pop("accepts"))
    else:
        model = _sam_3d(config, weights, str(path))
        model.load_state_dict({key: value.float() for key, value in weights.items()})
    model.metadata = metadata
    return model


def _sam_3d(config: ModelConfig, weights: dict[str, torch.Tensor], source: str) -> Sam3D:
    """A 3D network with room for these weights. Whatever a header claims, none larger than they are is built."""
    blocks = {key.split(".")[2] for key in weights if key.startswith("image_encoder.blocks.")}
    none = torch.empty(0)
    mlp = weights.get("mask_decoder.transformer.layers.0.mlp.lin1.weight", none).shape
    positions = weights.get("image_encoder.pos_embed", none).shape
    patch = () if config.conv_stem else weights.get("image_encoder.patch_embed.proj.weight", none).shape[2:]
    dim, grid = config.encoder_dim, [config.grid_size] * 3
    numbers = {field.name: getattr(config, field.name) for field in fields(config) if field.type is int}
    others = numbers.keys() - {"encoder_dim", "prompt_dim", "decoder_mlp_dim"}
    claimed = (config.encoder_depth, *grid, dim, config.decoder_mlp_dim, config.prompt_dim)
    if (
        not all(isinstance(number, int) for number in numbers.values())
        or max(numbers[name] for name in others) > MAX_NUMBER
        or claimed != (len(blocks), *positions[1:], *mlp)
        or tuple(patch) != (() if config.conv_stem else (config.patch_size,) * 3)
    ):
        raise CheckpointError(
            f"{source}: its header describes another network than its {len(weights)} tensors make; damaged or edited. "
            "Copy it again."
        )
    model = Sam3D(config)
    _check_weights(weights, model.state_dict(), source)
    return model


def _open_folder(path: Path) -> Sam2D:
    """A 2D SAM as transformers' save_pretrained and the hub lay it out."""
    if missing := [file for file in SAM_FILES if not (path / file).is_file()]:
        raise CheckpointError(
            f"{path}: a folder without {' and '.join(missing)}; expected {' and '.join(SAM_FILES)}, as transformers "
            "saves a SAM. If its weights are a .bin, open it there and save it: SamModel.save_pretrained(folder)."
        )
    config = read_json(path / "config.json", CheckpointError)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "sam":
        raise CheckpointError(
            f"{path}: its config.json is of model type {kind!r}; expected 'sam', a 2D SAM or MedSAM."
        )
    check_is_weights(path / "model.safetensors")
    weights, _ = _read_safetensors(path / "model.safetensors")
    return _sam(config, weights, path, SAM_PROMPTS)


def _sam(config: dict[str, Any], weights: dict[str, torch.Tensor], source: Path, accepts: Iterable[str]) -> Sam2D:
    """A 2D network of transformers' configuration with these weights, all of them and no others."""
    hf = transformers()
    if _deepest(config) > len(weights):  # each layer would be built before anything can be compared
        raise CheckpointError(f"{source}: its configuration has more layers than its file has tensors. Copy it again.")
    try:
        with torch.device("meta"):  # numbers that are replaced at once need not be drawn
            sam = hf.SamModel(hf.SamConfig.from_dict(config))
        model = Sam2D(sam, accepts=accepts)
    except Exception as error:  # whatever a library raises that was told to build something impossible
        raise CheckpointError(f"{source}: its configuration describes no 2D SAM ({first_line(error)}).") from error
    # One matrix under two names, of which files may hold one.
    for name, twin in sam._tied_weights_keys.items():
        for key, other in ((name, twin), (twin, name)):
            if other in weights:
                weights.setdefault(key, weights[other])
    _check_weights(weights, sam.state_dict(), str(source))
    sam.load_state_dict({key: value.float() for key, value in weights.items()}, assign=True)
    sam.tie_weights()
    return model


def _deepest(config: Any) -> int:
    """The largest number of layers that a configuration of transformers names."""
    if not isinstance(config, dict):
        return 0
    named = [value for key, value in config.items() if "layers" in key and isinstance(value, int)]
    return max([0, *named, *map(_deepest, config.values())])


def _write_safetensors(path: str | os.PathLike, model: torch.nn.Module, header: dict[str, Any]) -> None:
    if as_path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path}: weights are written as .safetensors; give the file that suffix.")
    # Copies, as a 2D SAM has one matrix under two names, which files do not hold.
    weights = {key: value.half().clone().contiguous() for key, value in model.state_dict().items()}
    text = json.dumps(header)
    with replace_atomically(path) as temporary:
        try:
            save_file(weights, temporary, metadata={"seganypet": text, CHECKSUM: _checksum(weights, text)})
            _sort_header(temporary)
        except SafetensorError as error:  # which has no number of the system's
            raise WriteError(f"cannot write {path} ({first_line(error)}). Make room on the disk.") from error


def _sort_header(path: Path) -> None:
    """Sort a file's metadata, which safetensors writes in random order, so that equal weights make equal files."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def _checksum(weights: dict[str, torch.Tensor], header: str) -> str:
    """SHA-256 of a file's tensors, as they are stored, and of its header."""
    digest = hashlib.sha256(header.encode())
    for key, value in sorted(weights.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def _check_content(path: Path, weights: dict[str, torch.Tensor], headers: dict[str, str]) -> None:
    """Raise CheckpointError if a file that says its hash has another; those of earlier versions do not say it."""
    if headers.get(CHECKSUM, found := _checksum(weights, headers["seganypet"])) != found:
        raise CheckpointError(
            f"{path}: its content has another SHA-256 than it was written with, so masks drawn with it would be "
            "wrong. It was damaged or edited; copy it again."
        )


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors, and the text headers of the file."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or cut short ({error}). Copy it again.") from error


def _read_header(path: Path, header: str) -> tuple[ModelConfig | LocatorConfig | dict[str, Any], dict[str, Any]]:
    """Shape and metadata of a network that was written here; the shape of a 2D one is transformers' configuration."""
    try:
        content = json.loads(header)
        if content["format"] not in (known := (FORMAT, FORMAT_2D, FORMAT_LOCATOR)):
            raise CheckpointError(
                f"format {content['format']!r}, this version reads {', '.join(map(repr, known))}; update seganypet"
            )
        config = dict(content["config"])
        if content["format"] == FORMAT_LOCATOR:
            return LocatorConfig(**config), content[METADATA]
        if content["format"] == FORMAT_2D:  # files from before there were boxes do not say: they learned from clicks
            return config | {"accepts": frozenset(content.get("accepts", CLICK_PROMPTS))}, content[METADATA]
        return ModelConfig(**config), content[METADATA]
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: its header does not describe a network that this version knows ({error}); "
            "expected a file that save_model or save_sam wrote."
        ) from error


def _check_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], source: str) -> None:
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    if missing or surplus:
        raise CheckpointError(
            f"{source}: {len(missing)} tensors are missing (e.g. {missing[:2]}) and {len(surplus)} are unknown "
            f"(e.g. {surplus[:2]}); expected all {len(expected)} of this network."
        )
    for key, value in expected.items():
        if found[key].shape != value.shape:
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(found[key].shape)}; expected {tuple(value.shape)}."
            )
        if not torch.isfinite(found[key]).all():
            raise CheckpointError(f"{source}: {key} holds NaN or infinity; did training diverge? Use an earlier file.")
