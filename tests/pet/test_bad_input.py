"""Every way that input can be wrong ends in one error of this package that says so, and harms no file.

One row per cause: how to make it, which error, what its message must say. DICOM has a table of its own.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, oblique
from safetensors.torch import load_file, save_file
from threshold_network import ThresholdNetwork

from seganypet.errors import (
    CheckpointError,
    ClickError,
    GeometryError,
    JournalError,
    SegAnyPETError,
    UnitError,
    VolumeError,
)
from seganypet.model.checkpoints import load_model, save_model
from seganypet.model.config import ModelConfig
from seganypet.pet.quantification import quantify, threshold_mask
from seganypet.pet.volume import Volume, load_labels, load_volume, save_mask, save_volume
from seganypet.prompting.journal import Journal
from seganypet.prompting.session import Session
from seganypet.training.loop import TrainConfig

REFERENCE = REPOSITORY / "tests" / "data" / "reference"
AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
DATA = np.random.default_rng(0).gamma(2.0, 2.0, (7, 8, 9)).astype(np.float32)
PET = Volume(DATA, AFFINE, "SUVbw", source="case7.nii.gz")
MASK = DATA > 4
NAN, INFINITE, FLAT, CYCLIC = DATA.copy(), DATA.copy(), AFFINE.copy(), AFFINE.copy()
NAN[2, 3, 4], INFINITE[0, 0, 1] = np.nan, np.inf
FLAT[:3, 1] = 2 * FLAT[:3, 0]
CYCLIC[3, 0] = 1.0


def nifti(data=DATA, affine=AFFINE, name="scan.nii.gz"):
    """Write `data` as it is, and load it."""

    def make(folder):
        nib.save(nib.Nifti1Image(data, affine), folder / name)
        return lambda: load_volume(folder / name, unit="SUVbw")

    return make


def content(content, name="scan.nii.gz"):
    """A file of these bytes."""

    def make(folder):
        (folder / name).write_bytes(content)
        return lambda: load_volume(folder / name, unit="SUVbw")

    return make


def cut(name, keep):
    def make(folder):
        save_volume(folder / name, PET)
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])
        return lambda: load_volume(folder / name, unit="SUVbw")

    return make


def bad_sform(folder):
    """Two axes along one direction, as only a broken converter writes it."""
    save_volume(folder / "scan.nii", PET)
    with (folder / "scan.nii").open("r+b") as file:
        file.seek(280)
        file.write(FLAT[:3].astype("<f4").tobytes())
    return lambda: load_volume(folder / "scan.nii", unit="SUVbw")


def labels(data, affine=AFFINE):
    def make(folder):
        nib.save(nib.Nifti1Image(data, affine), folder / "organs.nii.gz")
        return lambda: load_labels(folder / "organs.nii.gz", like=PET)

    return make


def call(function, *arguments, **named):
    """Something wrong that needs no file."""
    return lambda folder: lambda: function(*arguments, **named)


def saved_over(mask, name="mask.nii.gz"):
    """Saving where an older mask stands."""

    def make(folder):
        save_mask(folder / "mask.nii.gz", MASK, PET)
        return lambda: save_mask(folder / name, mask, PET)

    return make


def a_folder_of_that_name(folder):
    (folder / "mask.nii.gz").mkdir()
    return lambda: save_mask(folder / "mask.nii.gz", MASK, PET)


def weights(change=None, name="net.safetensors"):
    """The small reference network, changed, and opened."""

    def make(folder):
        tensors = load_file(REFERENCE / "mini_state_dict.safetensors")
        tensors = tensors if change is None else change(tensors)
        if name.endswith(".safetensors"):
            save_file(tensors, folder / name)
        else:
            torch.save(tensors, folder / name)
        return lambda: load_model(folder / name)

    return make


def replaced(key, value):
    return lambda tensors: {**tensors, key: value(tensors[key])}


def without(key):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if key not in name}


def of_2d_sam(tensors):
    key = "image_encoder.patch_embed.proj.weight"
    return {**tensors, key: torch.zeros(48, 3, 16, 16)}


def cut_weights(folder):
    (folder / "net.pth").write_bytes((REFERENCE / "mini_training_checkpoint.pth").read_bytes()[:200_000])
    return lambda: load_model(folder / "net.pth")


def pickled_code(folder):
    torch.save({"model_state_dict": Path("anywhere")}, folder / "net.pth")
    return lambda: load_model(folder / "net.pth")


def unwritable_weights(folder):
    return lambda: save_model(folder / "net.pth", ThresholdNetwork(), "net")


def clicked(*clicks, volume=PET, then=None, **arguments):
    """A session, some clicks, and then one more thing."""

    def attempt(folder):
        session = Session(ThresholdNetwork(), volume, **arguments)
        for click in clicks:
            session.click(**click)
        if then:
            then(session, folder)

    return lambda folder: lambda: attempt(folder)


def journal(change):
    """A journal of one click, changed, and replayed."""

    def make(folder):
        session = Session(ThresholdNetwork(), PET)
        session.click(ijk=(3, 4, 5))
        session.save_journal(folder / "clicks.json")
        changed = change(json.loads((folder / "clicks.json").read_text()))
        (folder / "clicks.json").write_text(changed if isinstance(changed, str) else json.dumps(changed))
        return lambda: Session.replay(ThresholdNetwork(), PET, folder / "clicks.json")

    return make


def click_changed(**fields):
    return journal(lambda content: {**content, "clicks": [{**content["clicks"][0], **fields}]})


def yaml_config(text):
    def make(folder):
        (folder / "run.yaml").write_text(text)
        return lambda: TrainConfig.from_yaml(folder / "run.yaml")

    return make


ONE = {"ijk": (3, 4, 5)}
IO_KEY = "image_encoder.patch_embed.proj.weight"

CAUSES = {
    # Volumes
    "no such file": (call(load_volume, "no/such.nii.gz", unit="HU"), VolumeError, "such.nii.gz does not exist"),
    "a folder": (lambda folder: lambda: load_volume(folder, unit="HU"), VolumeError, "is a folder .*load_dicom"),
    "another suffix": (content(b"", "scan.png"), VolumeError, r"scan\.png: expected a file ending in \.nii, \.nii\.gz"),
    "zero bytes": (content(b""), VolumeError, "not a readable NIfTI file"),
    "text called NIfTI": (content(b"dear colleague, " * 50, "scan.nii"), VolumeError, "not a readable NIfTI file"),
    "not gzip inside .gz": (content(b"\0" * 5000), VolumeError, "not a readable NIfTI file"),
    "header cut": (cut("scan.nii", 200), VolumeError, "or cut short"),
    "voxels cut": (cut("scan.nii", -50), VolumeError, "or it was cut short"),
    "gzip stream cut": (cut("scan.nii.gz", -20), VolumeError, "or cut short"),
    "dynamic scan": (nifti(np.zeros((4, 4, 4, 3), np.float32)), VolumeError, r"4D array .*choose one frame"),
    "a single slice": (nifti(np.zeros((4, 4), np.float32)), VolumeError, "2D array of shape"),
    "no voxels along an axis": (call(Volume, np.zeros((3, 0, 4)), AFFINE, "HU"), VolumeError, "empty volume"),
    "NaN": (nifti(NAN), VolumeError, r"1 of 504 voxels are NaN .*ijk=\(2, 3, 4\)"),
    "infinity": (nifti(INFINITE), VolumeError, r"NaN or infinite .*ijk=\(0, 0, 1\)"),
    "complex voxels": (nifti(DATA.astype(np.complex64)), VolumeError, "complex64; expected integers or real"),
    "colours": (
        nifti(np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])), VolumeError, "expected integers or real",
    ),
    "text for voxels": (call(Volume, np.full((2, 2, 2), "a"), AFFINE, "HU"), VolumeError, "voxels of type <U1"),
    "no unit": (call(load_volume, "scan.nii.gz"), UnitError, "scan.nii.gz.*Give it: unit='SUVbw'"),
    "unknown unit": (call(load_volume, "scan.nii", unit="SUL"), UnitError, "unknown unit 'SUL'; expected one of"),
    "axes of one direction": (bad_sform, GeometryError, r"scan\.nii: singular affine .*Repair the file's sform"),
    "affine of 3 x 3": (call(Volume, DATA, np.eye(3), "HU"), GeometryError, "finite 4 x 4 matrix"),
    "NaN in the affine": (call(Volume, DATA, AFFINE * np.nan, "HU"), GeometryError, "finite 4 x 4 matrix"),
    "affine that is none": (call(Volume, DATA, CYCLIC, "HU"), GeometryError, r"last row \(0, 0, 0, 1\)"),
    # Labels and masks
    "labels of another shape": (labels(np.zeros((7, 8, 8), np.uint8)), GeometryError, r"shape \(7, 8, 8\) do not lie"),
    "labels elsewhere": (labels(MASK.astype(np.uint8), np.diag([4.0, 4.0, 3.0, 1])), GeometryError, "mm apart.*near"),
    "labels with fractions": (labels(DATA), VolumeError, "with fractions; expected a label map"),
    "negative labels": (labels(np.full(DATA.shape, -1, np.int16)), VolumeError, "values from -1 to -1"),
    "labels too large": (labels(np.full(DATA.shape, 40000, np.int32)), VolumeError, "values from 40000 .*0 to 32767"),
    "mask of another shape": (saved_over(MASK[:-1]), GeometryError, r"shape \(6, 8, 9\) does not fit case7"),
    "logits for a mask": (saved_over(DATA), VolumeError, "mask of float32 .*Threshold logits first: logits > 0"),
    "labels above 255": (saved_over(MASK * 300), VolumeError, "mask of int64 from 0 to 300; expected .* 0 to 255"),
    "mask as picture": (saved_over(MASK, "mask.png"), VolumeError, r"mask\.png: expected a file ending in"),
    "mask into no folder": (saved_over(MASK, "no/mask.nii"), SegAnyPETError, "folder .*no does not exist; create it"),
    "mask over a folder": (a_folder_of_that_name, SegAnyPETError, "is a folder; give the name of a file inside"),
    # Checkpoints and configs
    "unknown model": (call(load_model, "segment-all"), CheckpointError, "Known are tiny-base, tiny, tiny-organs, seg"),
    "weights of another suffix": (weights(name="net.onnx"), CheckpointError, r"expected a \.safetensors, \.pth, "),
    "weights cut": (cut_weights, CheckpointError, "or cut short"),
    "weights with code": (pickled_code, CheckpointError, "It was not opened: such a file can run code"),
    "a list for weights": (weights(lambda t: [1, 2], "net.pth"), CheckpointError, "no tensors under .*found: list"),
    "optimiser alone": (
        weights(lambda t: {"optimizer_state_dict": {}, "epoch": 3}, "net.pth"), CheckpointError,
        "no tensors under .*found: optimizer_state_dict, epoch",
    ),
    "keys that are numbers": (
        weights(lambda t: {0: torch.zeros(2)}, "net.pth"), CheckpointError, r"among its 1 tensors \(the first: 0\)",
    ),
    "no tensors": (weights(lambda t: {}), CheckpointError, r"among its 0 tensors \(the first: none\)"),
    "another network": (
        weights(lambda t: {"conv1.weight": torch.zeros(3)}), CheckpointError, "conv1.weight.*expected weights of",
    ),
    "weights of a 2D SAM": (weights(of_2d_sam), CheckpointError, "patches are 2D; this is a 2D SAM, expected a 3D"),
    "no attention blocks": (weights(without(".blocks.")), CheckpointError, "not the weights of a SAM-Med3D network"),
    "tensors missing": (weights(without("iou_token")), CheckpointError, r"1 tensors are missing .*iou_token"),
    "tensors too many": (
        weights(lambda t: {**t, "head.weight": torch.zeros(2)}), CheckpointError, r"1 are unknown .*head\.weight",
    ),
    "tensor of another shape": (
        weights(replaced("mask_decoder.iou_token.weight", lambda t: torch.zeros(1, 47))), CheckpointError,
        r"mask_decoder\.iou_token\.weight has shape \(1, 47\); expected \(1, 48\)",
    ),
    "NaN in weights": (weights(replaced(IO_KEY, lambda t: t * torch.nan)), CheckpointError, "proj.weight holds NaN"),
    "weights saved as .pth": (unwritable_weights, CheckpointError, r"net\.pth: weights are written as \.safetensors"),
    "window not made of patches": (call(ModelConfig, window_size=60), CheckpointError, "60 must be a multiple of"),
    "heads that do not divide": (call(ModelConfig, encoder_heads=5), CheckpointError, "192 must be a multiple of .* 5"),
    "prompt_dim that does not divide": (call(ModelConfig, prompt_dim=64), CheckpointError, "64 must be a multiple"),
    "grid wider than its windows": (
        call(ModelConfig, form="released", window_size=128, conv_stem=False, fine_features=False), CheckpointError,
        "a grid of 16 tokens must fit into the attention window of 14",
    ),
    "stem of other strides": (call(ModelConfig, patch_size=16), CheckpointError, "patch_size must be 8"),
    "fine features of no stem": (call(ModelConfig, conv_stem=False), CheckpointError, "set conv_stem too"),
    "voxels without size": (call(ModelConfig, spacing_mm=0.0), CheckpointError, "spacing_mm 0.0 must be positive"),
    "unknown form": (call(ModelConfig, form="plain"), CheckpointError, "unknown form 'plain'"),
    "unknown intensity": (call(ModelConfig, intensity="raw"), CheckpointError, "unknown intensity 'raw'"),
    "typo in a training config": (yaml_config("name: x\nsteeps: 3"), SegAnyPETError, "unknown key steeps"),
    "typo in its model": (yaml_config("name: x\nmodel: {dim: 3}"), SegAnyPETError, "unknown key model.dim"),
    # Sessions and clicks
    "CT for a PET network": (clicked(ONE, volume=Volume(DATA, AFFINE, "HU")), UnitError, "in HU, but threshold was"),
    "spacing of no size": (clicked(ONE, spacing_mm=0), ClickError, "spacing_mm=0; expected a voxel size"),
    "spacing as text": (clicked(ONE, spacing_mm="4"), ClickError, "spacing_mm='4'; expected"),
    "unknown precision": (clicked(ONE, precision="half"), ClickError, "precision='half'; expected 'auto'"),
    "click without a place": (clicked({}), ClickError, "either as ijk=.* or as mm="),
    "click in both frames": (clicked({**ONE, "mm": (0, 0, 0)}), ClickError, "either as ijk=.* or as mm="),
    "click of two numbers": (clicked({"ijk": (3, 4)}), ClickError, r"shape \(2,\); expected three numbers"),
    "click of words": (clicked({"mm": "liver"}), ClickError, "mm='liver' is not a point"),
    "click at NaN": (clicked({"mm": (0, np.nan, 0)}), ClickError, "not finite"),
    "click at infinity": (clicked({"ijk": (0, np.inf, 0)}), ClickError, "not finite"),
    "click between voxels": (clicked({"ijk": (3, 4.5, 5)}), ClickError, "is not a voxel: indices are whole numbers"),
    "click outside": (clicked({"ijk": (3, 4, 9)}), ClickError, r"case7.* lies outside volume shape \(7, 8, 9\)"),
    "click at a negative index": (clicked({"ijk": (3, -1, 5)}), ClickError, r"case7.* outside volume shape"),
    "millimetres as voxels": (
        clicked({"ijk": PET.to_mm((3, 4, 5)).round()}), ClickError, "In millimetres it would lie inside.*write mm=",
    ),
    "DICOM's millimetres": (
        clicked({"mm": PET.to_mm((3, 4, 5)) * (-1, -1, 1)}), ClickError, "DICOM counts x and y the other way",
    ),
    "sign as a word": (clicked({**ONE, "foreground": "no"}), ClickError, "foreground='no'; expected True"),
    "first click negative": (clicked({**ONE, "foreground": False}), ClickError, "object 1: .* must be foreground"),
    "object without a name": (clicked(then=lambda session, _: session.select(" ")), ClickError, "object name ' '"),
    "undo of nothing": (clicked(then=lambda session, _: session.undo()), ClickError, "nothing to undo"),
    "redo of nothing": (clicked(ONE, then=lambda session, _: session.redo()), ClickError, "nothing to redo"),
    "saving nothing": (clicked(then=lambda s, f: s.save(f / "mask.nii")), ClickError, "nothing to save to .*mask.nii"),
    "journal into no folder": (
        clicked(ONE, then=lambda s, f: s.save_journal(f / "no" / "clicks.json")), SegAnyPETError, "does not exist",
    ),
    # Journals
    "no journal": (call(Journal.load, "no/clicks.json"), JournalError, "cannot read no/clicks.json: No such file"),
    "journal cut": (journal(lambda c: json.dumps(c)[:-9]), JournalError, r"clicks\.json: not a readable journal"),
    "journal of a list": (journal(lambda c: [c]), JournalError, "format 'list'; expected 'seganypet-journal-1'"),
    "journal of the future": (journal(lambda c: {**c, "format": "seganypet-journal-9"}), JournalError, "journal-9'"),
    "journal without its volume": (journal(lambda c: c.pop("volume") and c), JournalError, "volume missing or damaged"),
    "journal without an affine": (
        journal(lambda c: c["volume"].pop("affine") and c), JournalError, "its volume: affine must be a finite 4 x 4",
    ),
    "journal of another volume": (
        journal(lambda c: {**c, "volume": {**c["volume"], "fingerprint": "0"}}), JournalError, "fingerprints differ",
    ),
    "journal of other weights": (journal(lambda c: {**c, "model": {"name": "net"}}), JournalError, "net and other"),
    "journal with a strange setting": (journal(lambda c: {**c, "settings": {"x": 1, "clicks": "bind"}}),
                                       JournalError, "repeated.*'x'"),
    "journal with a damaged click": (journal(lambda c: {**c, "clicks": [3]}), JournalError, "click 1: 3 is no prompt"),
    "journal with half a voxel": (click_changed(ijk=[3, 4.5, 5]), JournalError, "click 1: .*three integers"),
    "journal with an edited click": (click_changed(ijk=[3, 4, 6]), JournalError, r"click 1: ijk=\[3, 4, 6\] and mm="),
    # Quantities
    "SUV of counts": (call(quantify, Volume(DATA, AFFINE, "Bq/mL"), MASK), UnitError, "in Bq/mL; SUVmax.* need SUVbw"),
    "quantities of another grid": (call(quantify, PET, MASK[1:]), GeometryError, r"shape \(6, 8, 9\) does not lie"),
    "quantities of logits": (call(quantify, PET, DATA), VolumeError, "mask is float32; expected bool"),
    "quantities of negative labels": (call(quantify, PET, -1 * MASK), VolumeError, "label map: values from -1 to 0"),
    "unknown threshold rule": (call(threshold_mask, PET, MASK, "50%"), VolumeError, "expected '50% SUVmax'"),
    "unknown kind of peak": (call(quantify, PET, MASK, peak="top"), VolumeError, "peak='top'; expected 'global'"),
}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_bad_input_is_refused_with_its_cause_and_changes_no_file(tmp_path, monkeypatch, cause):
    make, error_class, message = CAUSES[cause]
    monkeypatch.chdir(tmp_path)
    attempt = make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(SegAnyPETError, match=message) as caught:
        attempt()
    assert type(caught.value) is error_class
    assert contents(tmp_path) == before


def test_the_same_things_done_right_are_not_refused(tmp_path):
    nifti()(tmp_path)()
    labels(MASK.astype(np.uint8))(tmp_path)()
    saved_over(MASK)(tmp_path)()
    weights()(tmp_path)()
    clicked(ONE, {**ONE, "foreground": False}, spacing_mm=4, precision="float32")(tmp_path)()
    journal(lambda content: content)(tmp_path)()
    yaml_config("name: x\nepochs: 3")(tmp_path)()
    quantify(PET, MASK, peak="local")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}
