"""Weights of every origin open to the network that wrote them, and nothing else opens."""

import argparse
import json
import pickle
import random
import time
from dataclasses import asdict
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import REPOSITORY
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from seganypet.errors import CheckpointError
from seganypet.model import hub as hub_module
from seganypet.model.checkpoints import config_from_weights, load_model, save_model, save_sam, weights_sha256
from seganypet.model.config import PAPER, RELEASED, ModelConfig
from seganypet.model.hub import NETWORKS, SAM_FILES
from seganypet.model.sam2d import Sam2D, small_sam
from seganypet.model.sam3d import Sam3D

REFERENCE = REPOSITORY / "tests" / "data" / "reference"
RELEASED_FILE = REFERENCE / "mini_training_checkpoint.pth"
SMALL = ModelConfig(window_size=32, spacing_mm=3.5, encoder_dim=32, encoder_depth=2, encoder_heads=2, prompt_dim=48)


@pytest.fixture(autouse=True)
def hub_is_tried(monkeypatch):
    """As if the hub answered, and no earlier test had found that it cannot be reached."""
    monkeypatch.setitem(hub_module._unreachable, "until", 0.0)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "mini_state_dict.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "mini_io.safetensors")


def logits_of(model, expected, case="three_mixed"):
    with torch.no_grad():
        embedding = model.embed(expected["image"].float())
        points, labels = expected[f"{case}.points"].float(), expected[f"{case}.labels"]
        return model.decode(embedding, points, labels, model.no_logits(len(points)))[0]


def same_weights(model, weights):
    state = model.state_dict()
    return set(state) == set(weights) and all(torch.equal(state[key], weights[key]) for key in weights)


def test_a_released_training_checkpoint_opens_and_gives_the_reference_logits(expected):
    model = load_model(RELEASED_FILE)
    assert (model.name, model.metadata, model.training) == ("mini_training_checkpoint", {}, False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(
        logits_of(model, expected).double(), expected["three_mixed.low_res_logits"], rtol=0, atol=2e-4
    )


def test_the_shape_of_a_released_network_is_read_from_its_tensors(weights):
    config = config_from_weights(weights, "mini")
    assert (config.window_size, config.patch_size, config.encoder_dim, config.prompt_dim) == (64, 8, 48, 48)
    assert (config.encoder_depth, config.encoder_heads) == (3, 3)
    assert (config.attention_window, config.global_blocks) == (14, (1,))
    assert (config.form, config.spacing_mm, config.intensity) == ("released", 1.5, "zscore_positive")


@pytest.mark.parametrize("config", [RELEASED, PAPER], ids=["depth 12", "depth 16"])
def test_depth_and_global_blocks_of_full_size_networks_are_read(config):
    with torch.device("meta"):  # shapes without 100 million numbers
        weights = Sam3D(config).state_dict()
    assert config_from_weights(weights, "full size") == config


@pytest.mark.parametrize("layout", ["bare", "module.", "half precision", "safetensors", "pt"])
def test_other_layouts_of_the_same_weights_open_too(tmp_path, weights, layout):
    path = tmp_path / {"safetensors": "mini.safetensors", "pt": "mini.pt"}.get(layout, "mini.pth")
    if layout == "safetensors":
        save_file(weights, path)
    elif layout == "module.":
        torch.save({"model_state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)
    elif layout == "half precision":
        torch.save({key: value.half() for key, value in weights.items()}, path)
        weights = {key: value.half().float() for key, value in weights.items()}
    else:
        torch.save(weights, path)
    model = load_model(path)
    assert same_weights(model, weights)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_saved_network_comes_back_with_its_config_and_facts(tmp_path):
    torch.manual_seed(0)
    model, path = Sam3D(SMALL), tmp_path / "small.safetensors"
    facts = {"steps": 12, "data": "shapes"}
    save_model(path, model, "small", facts)
    again = load_model(path)
    assert again.config == SMALL and again.metadata == facts
    assert same_weights(again, {key: value.half().float() for key, value in model.state_dict().items()})
    assert list(tmp_path.iterdir()) == [path]
    # Rounded to float16 once, the weights stay what they are, and so does their hash.
    save_model(tmp_path / "copy.safetensors", again, "copy", facts)
    assert weights_sha256(load_model(tmp_path / "copy.safetensors")) == weights_sha256(again)


def test_equal_networks_are_equal_files(tmp_path):
    torch.manual_seed(0)
    model = Sam3D(SMALL)
    path = tmp_path / "weights.safetensors"

    def written() -> bytes:
        save_model(path, model, "small \u00e9 \"\\\x7f", {"seed": 1})
        return path.read_bytes()

    assert len({written() for _ in range(10)}) == 1
    assert load_model(path).metadata["seed"] == 1


def test_the_hash_of_weights_tells_one_number(weights):
    model = load_model(RELEASED_FILE)
    before = weights_sha256(model)
    model.mask_decoder.iou_token.weight.data[0, 0] += 1e-6
    assert weights_sha256(model) != before == weights_sha256(load_model(RELEASED_FILE))


class Intruder:
    """Unpickled freely, it would create a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("layout", ["zip", "plain pickle", "beside weights"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, weights, layout):
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    if layout == "plain pickle":
        path.write_bytes(pickle.dumps(Intruder(trace), protocol=2))
    elif layout == "zip":
        torch.save(Intruder(trace), path)
    else:
        torch.save({"model_state_dict": weights, "args": Intruder(trace)}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth: .*such a file can run code"):
        load_model(path)
    assert not trace.exists()
    if layout == "plain pickle":  # the trap would have worked
        pickle.loads(path.read_bytes())
        assert trace.exists()


def test_the_one_class_that_releases_hold_stays_unknown_elsewhere(tmp_path):
    load_model(RELEASED_FILE)
    path = tmp_path / "arguments.pt"
    torch.save(argparse.Namespace(lr=1), path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("keep", [0, 1, 40, 1000, 100_000, 1_500_000, -1, -200])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path, suffix, keep):
    whole = RELEASED_FILE if suffix == ".pth" else REFERENCE / "mini_state_dict.safetensors"
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=rf"cut{suffix}: "):
        load_model(path)


def headed(path, weights, header):
    save_file(weights, path, metadata={"seganypet": header if isinstance(header, str) else json.dumps(header)})
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda header: "{", "does not describe a network"),
        (lambda header: ["format"], "does not describe a network"),
        (lambda header: {**header, "format": "seganypet-weights-9"}, "update seganypet"),
        (lambda header: {key: header[key] for key in ("format", "config")}, "'facts'"),
        (lambda header: {**header, "config": {**header["config"], "colour": 1}}, "colour"),
        (lambda header: {**header, "config": {**header["config"], "prompt_dim": 50}}, "multiple of 48"),
        (lambda header: {**header, "config": {**header["config"], "patch_size": "8"}}, "does not describe a network"),
    ],
    ids=["no JSON", "a list", "a later format", "no facts", "unknown field", "impossible", "text for a number"],
)
def test_a_damaged_header_is_refused(tmp_path, change, message):
    with torch.device("meta"):
        shapes = Sam3D(SMALL).state_dict()
    weights = {key: torch.zeros(value.shape) for key, value in shapes.items()}
    good = {"format": "seganypet-weights-1", "name": "small", "config": asdict(SMALL), "facts": {}}
    assert load_model(headed(tmp_path / "good.safetensors", weights, good)).config == SMALL
    with pytest.raises(CheckpointError, match=rf"bad\.safetensors: .*{message}"):
        load_model(headed(tmp_path / "bad.safetensors", weights, change(good)))


def in_cache(folder: Path, repository: str, files: dict[str, Path]) -> Path:
    """Put files where the hub's client keeps its downloads."""
    place = folder / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    (place / "snapshots" / commit).mkdir(parents=True)
    for file, path in files.items():
        (place / "snapshots" / commit / file).symlink_to(path)
    return folder


@pytest.mark.parametrize("name", [name for name, source in NETWORKS.items() if len(source.files) == 1])
def test_a_downloaded_model_opens_by_name_without_a_network(tmp_path, monkeypatch, capsys, name):
    _, repository, (file,) = NETWORKS[name]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(in_cache(tmp_path, repository, {file: RELEASED_FILE})))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = load_model(name)
    assert model.name == name and model.config.encoder_depth == 3
    assert capsys.readouterr().out == ""


def test_offline_a_hub_name_says_where_to_get_the_file_and_how_to_open_it(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as caught:
        load_model("sam-med3d-turbo")
    for needed in ("sam-med3d-turbo", "sam_med3d_turbo.pth", "blueyo0/SAM-Med3D", "load_model('sam_med3d_turbo.pth')"):
        assert needed in str(caught.value)


def test_whose_licence_applies_is_printed_before_a_download_begins(monkeypatch, capsys):
    printed = []

    def hub(repository, file, local_files_only=False):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not in the cache")
        printed.append(capsys.readouterr().out)
        return str(RELEASED_FILE)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert load_model("seganypet-v1").name == "seganypet-v1"
    assert len(printed) == 1
    assert "licence" in printed[0] and "https://huggingface.co/YichiZhang98/SegAnyPET" in printed[0]


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError("too slow"), OSError("disk full")])
def test_a_download_that_fails_says_so(monkeypatch, error):
    def hub(repository, file, local_files_only=False):
        raise errors.LocalEntryNotFoundError("not in the cache") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    with pytest.raises(CheckpointError, match=rf"cannot download seganypet_v2\.pth.*{type(error).__name__}"):
        load_model("seganypet-v2")


# ---- 2D networks

@pytest.fixture(scope="module")
def sam() -> Sam2D:
    torch.manual_seed(3)
    return Sam2D(small_sam(64, 8, 64, 2, 32), "small-2d").eval()


@pytest.fixture(scope="module")
def folder(sam, tmp_path_factory) -> Path:
    """A 2D network as transformers saves it."""
    place = tmp_path_factory.mktemp("sam") / "sam-small.v1"
    sam.sam.save_pretrained(place)
    return place


def copied(folder: Path, place: Path, without: str | None = None) -> Path:
    place.mkdir()
    for file in SAM_FILES:
        if file != without:
            (place / file).write_bytes((folder / file).read_bytes())
    return place


def said(model: Sam2D) -> torch.Tensor:
    with torch.no_grad():
        pixels = model.pixels(torch.arange(0, 250, 10, dtype=torch.uint8).expand(1, 20, 25))
        return model.decode(model.embed(pixels), torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))[0]


def test_a_saved_2d_network_comes_back_with_its_shape_and_facts(tmp_path, sam):
    path = tmp_path / "small.safetensors"
    save_sam(path, sam, {"steps": 12})
    again = load_model(path)
    assert isinstance(again, Sam2D) and (again.name, again.metadata, again.training) == ("small", {"steps": 12}, False)
    assert (again.image_size, again.logits_size) == (64, 32)
    assert same_weights(again, {key: value.half().float() for key, value in sam.state_dict().items()})
    assert not any(parameter.requires_grad for parameter in again.parameters())
    torch.testing.assert_close(said(again), said(sam), rtol=0.05, atol=0.01)
    save_sam(tmp_path / "copy.safetensors", again, {})
    assert weights_sha256(load_model(tmp_path / "copy.safetensors")) == weights_sha256(again) != weights_sha256(sam)
    with pytest.raises(CheckpointError, match="give the file that suffix"):
        save_sam(tmp_path / "small.pth", sam)


def test_a_2d_network_of_the_embedded_size_opens_in_under_two_seconds(tmp_path):
    save_sam(tmp_path / "tiny.safetensors", Sam2D(small_sam(128, 8, 192, 6, 128)))
    started = time.perf_counter()
    load_model(tmp_path / "tiny.safetensors")
    assert time.perf_counter() - started < 2


def test_a_folder_that_transformers_saved_opens_to_the_same_network(folder, sam):
    model = load_model(folder)
    assert (model.name, model.metadata) == ("sam-small.v1", {})
    assert weights_sha256(model) == weights_sha256(sam)
    assert torch.equal(said(model), said(sam))


@pytest.mark.parametrize("absent", SAM_FILES)
def test_a_folder_that_lacks_a_file_says_which_are_needed(tmp_path, folder, absent):
    with pytest.raises(CheckpointError, match=f"half: a folder without {absent}; expected config.json"):
        load_model(copied(folder, tmp_path / "half", without=absent))


@pytest.mark.parametrize(
    "config, message",
    [
        ("{", "not a readable JSON file"),
        ("[]", "model type None; expected 'sam'"),
        ('{"model_type": "sam2"}', "model type 'sam2'; expected 'sam'"),
        ('{"model_type": "sam", "vision_config": 5}', "describes no 2D SAM"),
        ('{"model_type": "sam", "vision_config": {"patch_size": 0}}', "describes no 2D SAM"),
        ('{"model_type": "sam"}', "tensors are missing"),  # that of ViT-B
    ],
)
def test_a_folder_of_another_network_is_refused(tmp_path, folder, config, message):
    place = copied(folder, tmp_path / "other")
    (place / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=rf"other.*: .*{message}"):
        load_model(place)


def test_2d_weights_that_are_damaged_or_not_all_there_are_refused(tmp_path, folder):
    place = copied(folder, tmp_path / "cut")
    weights = load_file(folder / "model.safetensors")
    (place / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut short"):
        load_model(place)
    save_file({key: value for key, value in weights.items() if "iou_token" not in key}, place / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors are missing"):
        load_model(place)
    weights["mask_decoder.iou_token.weight"][0, 0] = float("nan")
    save_file(weights, place / "model.safetensors")
    with pytest.raises(CheckpointError, match="iou_token.weight holds NaN"):
        load_model(place)


@pytest.mark.parametrize("name", [name for name, source in NETWORKS.items() if source.files == SAM_FILES])
def test_a_downloaded_2d_model_opens_by_name_without_a_network(tmp_path, monkeypatch, capsys, folder, sam, name):
    files = {file: folder / file for file in SAM_FILES}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(in_cache(tmp_path, NETWORKS[name].repository, files)))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = load_model(name)
    assert model.name == name and weights_sha256(model) == weights_sha256(sam)
    assert capsys.readouterr().out == ""


def test_a_2d_download_says_whose_it_is_once_and_offline_how_to_do_without(monkeypatch, capsys, folder):
    asked = []

    def hub(repository, file, local_files_only=False):
        asked.append((repository, file, local_files_only))
        if local_files_only and file == "model.safetensors":
            raise errors.LocalEntryNotFoundError("not in the cache")
        if file == "model.safetensors" and len(asked) > 5:
            raise ConnectionError("refused")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    assert load_model("medsam-vit-b").name == "medsam-vit-b"
    assert {repository for repository, *_ in asked} == {"wanglab/medsam-vit-base"}
    assert capsys.readouterr().out.count("read the licence") == 1
    with pytest.raises(CheckpointError) as caught:
        load_model("sam-vit-h")
    for needed in ("config.json and model.safetensors", "facebook/sam-vit-huge", "load_model('sam-vit-huge')"):
        assert needed in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_every_flipped_bit_of_weights_is_noticed_or_changes_none(tmp_path, kind):
    path = tmp_path / f"small.{kind}"
    if kind == "pth":
        torch.save({"model_state_dict": load_file(REFERENCE / "mini_state_dict.safetensors")}, path)
    else:
        save_model(path, Sam3D(SMALL), "small", {"seed": 3})
    model, content, dice = load_model(path), path.read_bytes(), random.Random(1)
    noticed = 0
    for _ in range(30):
        flipped = bytearray(content)
        flipped[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        try:
            again = load_model(path)
        except CheckpointError:
            noticed += 1
        else:  # in a name or a time of the archive
            assert kind == "pth" and again.config == model.config and weights_sha256(again) == weights_sha256(model)
    assert noticed >= 25


@pytest.mark.parametrize(
    "change", [{"window_size": 4096}, {"encoder_dim": 400_000_000}, {"encoder_depth": 100_000}, {"encoder_depth": 1.5},
               {"decoder_mlp_dim": 10**9}, {"prompt_dim": 48 * 10**6},
               {"attention_window": 10**9}],
    ids=str,
)  # fmt: skip
def test_a_header_that_describes_a_huge_network_is_refused_before_anything_is_built(tmp_path, monkeypatch, change):
    save_model(tmp_path / "small.safetensors", Sam3D(SMALL), "small")
    weights = load_file(tmp_path / "small.safetensors")
    config = {**asdict(SMALL), **change}
    header = {"format": "seganypet-weights-1", "name": "small", "config": config, "facts": {}}
    path = headed(tmp_path / "bad.safetensors", weights, header)
    monkeypatch.setattr("seganypet.model.checkpoints.Sam3D", lambda _: pytest.fail("it was built"))
    with pytest.raises(CheckpointError):
        load_model(path)


def test_tensors_that_claim_more_than_their_file_holds_are_refused(tmp_path):
    weights = load_file(REFERENCE / "mini_state_dict.safetensors")
    key = "image_encoder.pos_embed"
    weights[key] = torch.zeros(1).expand(1, 512, 512, 512, weights[key].shape[-1])
    torch.save({"model_state_dict": weights}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="claim more bytes than the file has"):
        load_model(tmp_path / "a.pth")
