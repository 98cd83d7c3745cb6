"""Weights in and out: files written here, released checkpoints, and names on the Hugging Face hub."""

import argparse
import hashlib
import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from seganypet.errors import CheckpointError
from seganypet.files import replace_atomically
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D

EMBEDDED = ("tiny-base", "tiny")
WEIGHTS = Path(__file__).parents[1] / "weights"

# name -> repository, file
HUB = {
    "seganypet-v1": ("YichiZhang98/SegAnyPET", "seganypet_v1.pth"),
    "seganypet-v2": ("YichiZhang98/SegAnyPET", "seganypet_v2.pth"),
    "seganypet-lesion": ("YichiZhang98/SegAnyPET", "seganypet_lesion.pth"),
    "sam-med3d": ("blueyo0/SAM-Med3D", "sam_med3d.pth"),
    "sam-med3d-turbo": ("blueyo0/SAM-Med3D", "sam_med3d_turbo.pth"),
}
FORMAT = "seganypet-weights-1"


def load_model(name_or_path: str | os.PathLike, device: str | torch.device = "cpu") -> Sam3D:
    """Open a network, ready for inference.

    Args:
        name_or_path: "tiny" and "tiny-base" come with the package; the names in `HUB` are downloaded from the Hugging
            Face hub into its cache; anything else is a path: `.safetensors` written by `save_model`, or a
            `.pth` in the layout of the SegAnyPET and SAM-Med3D releases, whose shape is read from its keys.
        device: Where the weights shall live.

    Raises:
        CheckpointError: Unknown name, missing or damaged file, or not the weights of such a network.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        path = WEIGHTS / f"{name}.safetensors"
    elif name in HUB:
        path = _download(name)
    else:
        path, name = Path(name_or_path), Path(name_or_path).stem
        if not path.is_file():
            raise CheckpointError(
                f"{name_or_path}: neither a file nor a known model. Known are {', '.join((*EMBEDDED, *HUB))}."
            )
    if not path.is_file():
        raise CheckpointError(f"{path} is missing here; install seganypet again, or train it (see its card).")
    if path.suffix == ".safetensors":
        config, weights, facts = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        weights = _read_pth(path)
        config, facts = config_from_weights(weights, str(path)), {}
    else:
        raise CheckpointError(f"{path}: needed is a .safetensors, .pth or .pt file.")
    model = Sam3D(config)
    _check_weights(weights, model.state_dict(), str(path))
    model.load_state_dict({key: value.float() for key, value in weights.items()})
    model.name, model.facts = name, facts
    return model.eval().requires_grad_(False).to(device)


def save_model(path: str | os.PathLike, model: Sam3D, name: str, facts: dict[str, Any] | None = None) -> None:
    """Write weights as float16 with all that is needed to use them again: shape, window, intensities.

    Args:
        path: Ends in `.safetensors`; complete or absent, also after a crash.
        model: The network.
        name: Its name.
        facts: What else a reader should know, e.g. how it was trained; must fit into JSON.

    Raises:
        CheckpointError: Other suffix.
    """
    if Path(path).suffix != ".safetensors":
        raise CheckpointError(f"{path}: weights are written as .safetensors; give the file that suffix.")
    header = {"format": FORMAT, "name": name, "config": asdict(model.config), "facts": facts or {}}
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    with replace_atomically(path) as temporary:
        save_file(weights, temporary, metadata={"seganypet": json.dumps(header)})


def weights_sha256(model: Sam3D) -> str:
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
            f"(the first: {', '.join(list(weights)[:3]) or 'none'}); needed are weights of a SAM-Med3D network."
        )
    if patch.ndim != 5:
        raise CheckpointError(f"{source}: patches are {patch.ndim - 2}D; this is a 2D SAM, needed is a 3D one.")
    try:
        _, grid, *_, dim = weights["image_encoder.pos_embed"].shape
        blocks = {int(key.split(".")[2]) for key in weights if key.startswith("image_encoder.blocks.")}
        tables = [weights[f"image_encoder.blocks.{block}.attn.rel_pos_d"].shape for block in sorted(blocks)]
        sides = [(rows + 1) // 2 for rows, _ in tables]
        return ModelConfig(
            window_size=grid * patch.shape[-1],
            spacing_mm=1.5,
            patch_size=patch.shape[-1],
            encoder_dim=dim,
            encoder_depth=len(tables),
            encoder_heads=dim // tables[0][1],
            prompt_dim=weights["image_encoder.neck.0.weight"].shape[0],
            decoder_mlp_dim=weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
            form="released",
            attention_window=max(sides),
            global_blocks=tuple(index for index, side in enumerate(sides) if side == grid),
            conv_stem=False,
            fine_features=False,
            click_map=False,
            intensity="zscore_positive",
        )
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{source}: not the weights of a SAM-Med3D network: {error}.") from error


def _read_safetensors(path: Path) -> tuple[ModelConfig, dict[str, torch.Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            header = (file.metadata() or {}).get("seganypet")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or cut short ({error}). Copy it again.") from error
    if header is None:
        return config_from_weights(weights, str(path)), weights, {}
    try:
        header = json.loads(header)
        if header["format"] != FORMAT:
            raise CheckpointError(f"format {header['format']!r}, this version reads {FORMAT!r}; update seganypet")
        return ModelConfig(**header["config"]), weights, header["facts"]
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: its header does not describe a network that this version knows ({error}); "
            "needed is a file that save_model wrote."
        ) from error


def _read_pth(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Releases keep their command line beside the weights; no other class is let in.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds something else than tensors, or is no PyTorch file ({_first_line(error)}). "
            "It was not opened: such a file can run code. Ask its author for a safetensors file."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or cut short ({_first_line(error)}). Copy it again.") from error
    weights = content.get("model_state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: no model_state_dict of tensors in it; found: {found}.")
    return {str(key).removeprefix("module."): value for key, value in weights.items()}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], source: str) -> None:
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    if missing or surplus:
        raise CheckpointError(
            f"{source}: {len(missing)} tensors are missing (e.g. {missing[:2]}) and {len(surplus)} are unknown "
            f"(e.g. {surplus[:2]}); needed are all {len(expected)} of this network."
        )
    for key, value in expected.items():
        if found[key].shape != value.shape:
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(found[key].shape)}; expected {tuple(value.shape)}."
            )
        if not torch.isfinite(found[key]).all():
            raise CheckpointError(f"{source}: {key} holds NaN or infinity; did training diverge? Use an earlier file.")


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, file = HUB[name]
    try:
        return Path(hf_hub_download(repository, file, local_files_only=True))
    except LocalEntryNotFoundError:
        print(
            f"Downloading {file} from https://huggingface.co/{repository}. These weights are their owners': "
            "read the licence on that page before you use them."
        )
    try:
        return Path(hf_hub_download(repository, file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name}: cannot download {file} from {repository} ({type(error).__name__}). Without a network, get the "
            f"file on another machine and open it by path: load_model('{file}')."
        ) from error
