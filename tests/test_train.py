"""Training goes on after an interruption as if there had been none, and clicks are labelled by the truth."""

import numpy as np
import pytest
import torch

from seganypet import train as train_module
from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model
from seganypet.model.config import ModelConfig
from seganypet.scenes import SIZE, phantom_windows, shape_window
from seganypet.train import TrainConfig, WindowBank, pick_clicks, train

MODEL = ModelConfig(encoder_dim=24, encoder_depth=1, encoder_heads=2, prompt_dim=48, decoder_mlp_dim=32)
CONFIG = TrainConfig("short", phantom_share=0.0, steps=3, batch_size=2, max_clicks=3, seed=5, model=MODEL)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Four scenes of shapes, stored as a run stores them."""
    folder = tmp_path_factory.mktemp("windows")
    scenes = [shape_window(seed) for seed in range(4)]
    np.save(folder / "suv.npy", np.stack([scene.suv for scene in scenes]))
    np.save(folder / "labels.npy", np.stack([scene.labels for scene in scenes]))
    np.save(folder / "target.npy", np.array([scene.target for scene in scenes]))
    np.save(folder / "is_phantom.npy", np.zeros(4, bool))
    return WindowBank(folder)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_that_was_interrupted_ends_with_the_weights_of_an_unbroken_one(tmp_path, bank, monkeypatch):
    monkeypatch.setattr(train_module, "CHECKPOINT_EVERY_S", 0)  # a checkpoint after every step
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    expected = train(CONFIG, bank, unbroken).state_dict()

    whole_losses, steps = train_module.dialogue_losses, []

    def power_cut(*arguments, **named):
        steps.append(1)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return whole_losses(*arguments, **named)

    monkeypatch.setattr(train_module, "dialogue_losses", power_cut)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, bank, broken)
    torch.manual_seed(999)  # nothing may hang on the state of another process
    resumed = train(CONFIG, bank, broken).state_dict()
    assert len(steps) == 2 + 2  # one step, the one cut short, and the two that were left
    assert set(resumed) == set(expected)
    for key, value in expected.items():
        assert torch.equal(resumed[key], value), key

    exported = load_model(unbroken / "short.safetensors")
    assert exported.config == MODEL and exported.facts["step"] == 3
    assert exported.facts["training"]["seed"] == 5
    for key, value in exported.state_dict().items():
        assert torch.equal(value, expected[key].half().float()), key
    assert sorted(path.name for path in broken.iterdir()) == ["short.ckpt", "short.safetensors"]


def test_training_changes_weights_and_other_seeds_give_others(tmp_path, bank):
    one_step = TrainConfig(**{**CONFIG.__dict__, "steps": 1})
    other = TrainConfig(**{**one_step.__dict__, "seed": 6, "name": "other"})
    first, second = train(one_step, bank, tmp_path).state_dict(), train(other, bank, tmp_path).state_dict()
    key = "mask_decoder.iou_token.weight"
    assert not torch.equal(first[key], second[key])


def test_a_batch_depends_on_its_seed_alone_and_its_truth_is_0_or_1(bank):
    one, other, next_one = (bank.batch(CONFIG, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(one[0], next_one[0])
    suv, truth = one
    assert suv.shape == truth.shape == (2, 1, SIZE, SIZE, SIZE) and suv.dtype == truth.dtype == torch.float32
    assert suv.min() >= 0 and set(truth.unique().tolist()) == {0.0, 1.0}


def test_a_click_lies_in_its_region_and_is_labelled_by_the_truth_there():
    torch.manual_seed(0)
    truth = (torch.rand(6, 1, 64, 64, 64) < 0.5).float()
    region = torch.zeros(6, 1, 32, 32, 32)
    region[:, :, 4:20, 8:25, 11:30] = 1
    region[3:, :, 10:12] = 0
    seen = set()
    for _ in range(20):
        points, labels = pick_clicks(region, truth, deep=0.5)
        assert points.shape == (6, 1, 3) and labels.shape == (6, 1)
        for sample in range(6):
            i, j, k = points[sample, 0].long().tolist()
            assert points[sample, 0].tolist() == [i, j, k]  # whole voxels
            assert labels[sample, 0] == truth[sample, 0, i, j, k]
            assert region[sample, 0, i // 2, j // 2, k // 2] == 1
            seen.add(labels[sample, 0].item())
    assert seen == {0, 1}


def test_deep_clicks_keep_away_from_the_surface():
    torch.manual_seed(0)
    region = torch.zeros(8, 1, 32, 32, 32)
    region[:, :, 6:26, 6:26, 6:26] = 1  # a cube with its middle at voxel 31.5 of the window
    truth = region.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    deep, _ = pick_clicks(region, truth, deep=1.0)
    anywhere = torch.cat([pick_clicks(region, truth, deep=0.0)[0] for _ in range(10)])
    assert (deep - 31.5).abs().max() < 20 - 4  # the cube reaches 20 voxels from its middle
    assert (anywhere - 31.5).abs().amax(-1).max() > 18


def test_an_unknown_key_is_refused_before_anything_else_happens(tmp_path):
    path = tmp_path / "typo.yaml"
    for text, key, known in (
        ("name: x\nlearning_rat: 0.1\n", "learning_rat", "learning_rate"),
        ("name: x\nmodel: {depth: 3}\n", "depth", "encoder_depth"),
    ):
        path.write_text(text)
        with pytest.raises(SegAnyPETError, match=rf"typo\.yaml: unknown keys \['{key}'\]; known are .*'{known}'"):
            TrainConfig.from_yaml(path)


def test_the_config_that_trained_the_embedded_model_is_readable():
    config = TrainConfig.from_yaml(train_module.Path(train_module.__file__).parent / "configs" / "tiny-base.yaml")
    assert config.name == "tiny-base" and config.model.window_size == SIZE
    assert config.first_phantom_seed >= 10_000  # tests and samples use seeds below


def test_a_network_of_another_window_than_the_training_windows_is_refused(tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text("name: wide\nmodel: {window_size: 128}\n")
    with pytest.raises(SegAnyPETError, match=r"wide\.yaml: training windows have 64 voxels a side, but .* is 128"):
        TrainConfig.from_yaml(path)


def test_a_run_does_not_go_on_with_other_settings(tmp_path, bank):
    train(TrainConfig(**{**CONFIG.__dict__, "steps": 1}), bank, tmp_path)
    with pytest.raises(SegAnyPETError, match="made with another learning_rate, steps"):
        train(TrainConfig(**{**CONFIG.__dict__, "learning_rate": 0.1}), bank, tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [("- a\n- b\n", "key: value"), ("steps: 5\n", "name: "), ("name: [\n", "not a readable YAML"),
     ("name: x\nmodel: {window_size: 32}\n", "set it to 64")],
    ids=["a list", "no name", "broken", "window of another size"],
)  # fmt: skip
def test_a_config_that_cannot_be_trained_is_refused(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(SegAnyPETError, match=message):
        TrainConfig.from_yaml(tmp_path / "config.yaml")


def test_windows_of_a_phantom_hold_their_target_and_the_same_seed_gives_the_same_ones():
    windows, again = phantom_windows(10_003, per_case=5), phantom_windows(10_003, per_case=5)
    assert len(windows) >= 3
    for window, other in zip(windows, again, strict=True):
        layer, label = window.target
        assert label > 0 and np.count_nonzero(window.labels[layer] == label) >= 8
        assert window.suv.shape == (SIZE,) * 3 and window.suv.min() >= 0
        assert np.array_equal(window.suv, other.suv) and window.target == other.target
