"""What `fuzz` spoils besides scans: masks, weights, checkpoints, journals, clicks, tables, configurations, messages."""

import contextlib
import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from traitlets import TraitError

from seganypet.cohort.cohort import Cohort
from seganypet.cohort.nnunet import read_description
from seganypet.cohort.progress import PROGRESS, CaseProgress
from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model, save_model, weights_sha256
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.pet.mask_files import load_masks, save_masks
from seganypet.pet.volume import Volume, load_volume
from seganypet.prompting.autopet_clicks import AutoPETClicks, read_autopet_clicks, write_autopet_clicks
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.study.store import ResultStore
from seganypet.training.bookkeeping import load_checkpoint
from seganypet.training.config import load_config
from seganypet.widgets.click import ClickWidget

TEXTS = (".json", ".jsonl", ".csv", ".yaml")
COLUMNS = {"case": str, "model": str, "dsc": float, "clicks": int}
SETTINGS = {"seed": 0, "data": {"hq": 8}}
NETWORK = ModelConfig(
    window_size=32, spacing_mm=8.0, encoder_dim=24, encoder_depth=1, encoder_heads=2, prompt_dim=48, decoder_mlp_dim=32
)  # fmt: skip
RELEASED = ModelConfig(
    window_size=32, spacing_mm=1.5, patch_size=16, encoder_dim=24, encoder_depth=1, encoder_heads=2, prompt_dim=48,
    decoder_mlp_dim=32, form="released", global_blocks=(0,), conv_stem=False, fine_features=False, click_map=False,
    intensity="zscore_positive",
)  # fmt: skip
# What a page says to its widget: calls, and values of its sliders and buttons.
MESSAGES: list[dict[str, Any]] = [
    {"call": "prompt", "prompt": {"ijk": [4, 3, 2], "foreground": True}},
    {"call": "paint", "path_ijk": [[1, 1, 2], [4, 3, 2]], "axis": 2, "radius_mm": 8, "foreground": True},
    {"call": "sphere", "ijk": [4, 3, 2], "diameter_mm": 20},
    {"call": "probe", "ras": [1, 2, 3]}, {"call": "piece", "layer": "pet", "number": 0}, {"call": "fill_holes"},
    {"call": "select", "name": "other"}, {"call": "lock", "name": "other", "locked": True}, {"call": "undo"},
    {"call": "recolour", "name": "other", "colour": "#0072B2"}, {"call": "rename", "old": "other", "new": "liver"},
    {"call": "hide", "name": "liver", "hidden": True}, {"call": "download", "what": "mask"}, {"call": "next_spot"},
    {"call": "load_text", "text": "{}"}, {"cursor": [1, 2, 3]}, {"intensity_range": [0, 7]}, {"tool": "box"},
    {"method": "session"}, {"objects": []}, {"ruler": [[0, 0, 0], [1, 1, 1]]}, {"brush_mm": 5, "uncertainty": {}},
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 7, 10**6, 10**18, 10**400, 0.5, -1e308, float("nan"), float("inf"), "", "x", "\x1b[2J\x07",
    "\u202e", "\ud800", "a" * 100_000, "../../etc/passwd", "2001-99-99", [], {}, [[]], [0, 0, 0], {"a": 1},
    [[[[[[[[]]]]]]]], [1] * 10_000,
]  # fmt: skip
LINES = [
    "", ",", "a,b", '"', '"a\nb', "NA", "\x00", "\x1b[31m", "\u00e9" * 50, "1e999", "nan", "-1", ";" * 20, "[" * 2000,
    "&a [*a]", "a: &a [x, x]\nb: &b [*a, *a]", "!!python/object:os.system x", "- - - -", "? :", "9" * 5000,
    "model: {encoder_depth: 100000}",
]  # fmt: skip


def make_records(folder: Path, scan: Volume) -> None:
    """Unspoilt files of every kind, each in a folder of its own that is called as in `READERS`.

    Args:
        folder: Parent of these folders.
        scan: PET on whose grid masks lie.
    """
    for kind in READERS:
        (folder / kind).mkdir()
    middle = tuple(size // 2 for size in scan.shape)
    session = ThresholdSession(scan)
    session.click(ijk=middle)
    session.select("other")
    session.click(ijk=(0, 0, 0))
    session.save_journal(folder / "journal" / "a.json")
    write_autopet_clicks(folder / "clicks" / "a.json", AutoPETClicks((middle,), ((0, 0, 0),)))
    progress = CaseProgress("A. B.", "LQ", "model: liver", [{"ijk": [1, 2, 3], "foreground": True}], "liver")
    (folder / "progress" / PROGRESS).write_text(json.dumps(asdict(progress)))
    masks = session.masks
    save_masks(folder / "masks" / "a.nii.gz", masks, scan)
    save_masks(folder / "segments" / "a.seg.nrrd", masks, scan)
    (folder / "cohort" / "a.csv").write_text(
        "case,patient,pet,pet_unit,quality,split,lesion_labels\none,p,pet.nii,SUVbw,HQ,train,tumour=1; nodes=2+3\n"
        "two,q,pet.nii,Bq/mL,LQ,test,\n"
    )
    (folder / "cohort" / "pet.nii").write_bytes(b"")
    (folder / "config" / "a.yaml").write_text(
        "name: a\nepochs: 2\nlearning_rate: 1e-3\ndata: {hq: 2, targets: [liver, spleen]}\nvalidation: {every: 1}\n"
    )
    (folder / "nnunet" / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "lesion": 1, "ignore": [2]}})
    )
    with ResultStore(folder / "table" / "a.csv", "study", COLUMNS, {"clicks": 5}, {"m": "weights 1"}) as store:
        for case in ("one", "two"):
            store.append((case, "m"), [{"case": case, "model": "m", "dsc": 0.5, "clicks": 1}], inputs={}, outputs={})
        store.finish([("one", "m"), ("two", "m")])
    for left in (folder / "table").glob(".*"):
        left.unlink()
    (folder / "messages" / "a.jsonl").write_text("".join(f"{json.dumps(message)}\n" for message in MESSAGES))
    torch.manual_seed(0)
    save_model(folder / "weights" / "a.safetensors", Sam3D(NETWORK), "small", {"seed": 1})
    torch.save({"model_state_dict": Sam3D(RELEASED).state_dict()}, folder / "released" / "a.pth")
    torch.save({"settings": SETTINGS, "step": 7, "weights": torch.ones(50)}, folder / "checkpoint" / "a.ckpt")
    for kind, header, packed in _itk_headers(scan):
        (folder / kind / f"a.{kind.removesuffix('_gz')}").write_bytes(header.encode() + packed)


def _itk_headers(scan: Volume) -> list[tuple[str, str, bytes]]:
    """NRRD and MetaImage with packed voxels: kind, header, voxels."""
    voxels = scan.data.astype("<f4").tobytes(order="F")
    shape, (x, y, z) = " ".join(map(str, scan.shape)), scan.spacing
    nrrd = (
        f"NRRD0004\ntype: float\ndimension: 3\nspace: right-anterior-superior\nsizes: {shape}\nspace directions: "
        f"({x},0,0) (0,{y},0) (0,0,{z})\nspace origin: (0,0,0)\nendian: little\nencoding: gzip\n\n"
    )
    meta = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = {x} {y} {z}\nDimSize = {shape}\n"
        "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    )
    packed = gzip.compress(voxels, mtime=0)
    return [("nrrd_gz", nrrd, packed), ("mha_gz", meta, packed)]


# ---- spoiling


def spoil_text(content: bytes, dice: random.Random) -> bytes:
    """Give a value of JSON another one, or change lines and cells, or the encoding."""
    text = content.decode()
    if dice.random() < 0.5:
        try:
            lines = text.splitlines() if text.count("\n{") else [text]
            at = dice.randrange(len(lines))
            lines[at] = json.dumps(_spoil_value(json.loads(lines[at]), dice))
            return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"
        except ValueError:
            pass  # CSV and YAML
    lines = text.split("\n")
    at = dice.randrange(len(lines))
    kind = dice.randrange(6)
    if kind == 0:
        lines[at] = dice.choice(LINES)
    elif kind == 1:
        lines.insert(at, dice.choice(LINES))
    elif kind == 2:
        lines.insert(at, dice.choice(lines))
    elif kind == 3:
        for mark in (",", ": "):
            cells = lines[at].split(mark)
            cells[dice.randrange(len(cells))] = dice.choice(LINES)
            lines[at] = mark.join(cells)
    elif kind == 4:
        del lines[at]
    else:
        return text.encode(dice.choice(["utf-16", "utf-8-sig", "cp037"]))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _spoil_value(value: Any, dice: random.Random) -> Any:
    if isinstance(value, dict | list) and value and dice.random() < 0.85:
        key = dice.choice(list(value)) if isinstance(value, dict) else dice.randrange(len(value))
        if dice.random() < 0.15:
            del value[key]
        else:
            value[key] = _spoil_value(value[key], dice)
        return value
    return dice.choice(VALUES)


def spoil_weights(content: bytes, dice: random.Random) -> bytes:
    """Change the header of a safetensors file, without the checksum that would tell."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    del header["__metadata__"]["sha256"]
    if dice.random() < 0.7:
        said = json.loads(header["__metadata__"]["seganypet"])
        said["config"] = _spoil_value(said["config"], dice) if dice.random() < 0.8 else dice.choice(VALUES)
        if isinstance(said["config"], dict) and said["config"] and dice.random() < 0.5:
            said["config"][dice.choice(list(said["config"]))] = dice.choice([1, 4096, 10**5, 10**9, 1.5, -1, "tiny"])
        header["__metadata__"]["seganypet"] = json.dumps(said)
    else:
        header = _spoil_value(header, dice)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def spoil_archive(content: bytes, dice: random.Random) -> bytes:
    """Change bytes of a pickle within PyTorch's archive, whose checksums are made right again."""
    source, target = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            data = bytearray(source.read(name))
            for _ in range(dice.randint(1, 3) if name.endswith("data.pkl") else 0):
                at = dice.randrange(len(data))
                change = dice.choice([b"", bytes([dice.randrange(256)]), b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"])
                data[at : at + dice.randint(1, 4)] = change
            archive.writestr(name, bytes(data))
    return target.getvalue()


def spoiler(name: str) -> Callable[[bytes, random.Random], bytes] | None:
    """How a file of this name is spoilt otherwise than byte by byte."""
    if name.endswith(TEXTS):
        return spoil_text
    return {".safetensors": spoil_weights, ".pth": spoil_archive, ".ckpt": spoil_archive}.get(Path(name).suffix)


# ---- reading; what is returned must not change when a bit of a file with checksums does


def _journal(folder: Path, scan: Volume) -> None:
    ThresholdSession(scan).load_journal(folder / "a.json")


def _cohort(folder: Path, scan: Volume) -> None:
    Cohort.validate_csv(folder / "a.csv", voxels=False, progress=False)
    Cohort.from_csv(folder / "a.csv")


def _table(folder: Path, scan: Volume) -> None:
    with ResultStore(folder / "a.csv", "study", COLUMNS, {"clicks": 5}, {"m": "weights 1"}) as store:
        store.finish([("one", "m"), ("two", "m")])


def _messages(folder: Path, scan: Volume) -> None:
    widget = ClickWidget(ThresholdSession(scan))
    for line in (folder / "a.jsonl").read_bytes().splitlines():
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(message, dict):
            widget._on_message(widget, message, [])
            with contextlib.suppress(TraitError, OverflowError, SegAnyPETError):  # of a value that a slider cannot have
                widget.set_state(message)
    widget.select("whatever came before")
    widget.method = "session"
    widget.click(ijk=tuple(size // 2 for size in scan.shape))
    widget.close()


def _masks(path: Path, scan: Volume) -> str:
    return repr([(name, np.packbits(mask).tobytes().hex()) for name, mask in load_masks(path, scan).items()])


READERS: dict[str, Callable[[Path, Volume], Any]] = {
    "journal": _journal,
    "clicks": lambda folder, scan: read_autopet_clicks(folder / "a.json", scan),
    "progress": lambda folder, scan: CaseProgress.load(folder / PROGRESS),
    "cohort": _cohort,
    "config": lambda folder, scan: load_config(folder / "a.yaml"),
    "nnunet": lambda folder, scan: read_description(folder),
    "table": _table,
    "messages": _messages,
    "checkpoint": lambda folder, scan: repr(load_checkpoint(folder / "a.ckpt", SETTINGS)),
    "weights": lambda folder, scan: weights_sha256(load_model(folder / "a.safetensors")),
    "released": lambda folder, scan: weights_sha256(load_model(folder / "a.pth")),
    "masks": lambda folder, scan: _masks(folder / "a.nii.gz", scan),
    "segments": lambda folder, scan: _masks(folder / "a.seg.nrrd", scan),
    "nrrd_gz": lambda folder, scan: load_volume(folder / "a.nrrd", unit="SUVbw").fingerprint(),
    "mha_gz": lambda folder, scan: load_volume(folder / "a.mha", unit="SUVbw").fingerprint(),
}
CHECKED = ("checkpoint", "weights", "released", "masks", "segments", "nrrd_gz", "mha_gz")  # have checksums
