"""Training resumes after an interruption as if there had been none, and refuses what it cannot learn from."""

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.model.checkpoints import load_model, save_model
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.pet.volume import load_volume, save_mask
from seganypet.training import loop
from seganypet.training.clicks import draw_start_masks, pick_clicks
from seganypet.training.config import DataConfig, TrainConfig, ValidationConfig, load_config
from seganypet.training.loop import prepare, train
from seganypet.training.objective import FirstMasks, Objective
from seganypet.training.samples import TrainingSamples
from seganypet.training.scans import ScanBank, scan_sources

SHAPE = {"encoder_dim": 24, "encoder_depth": 1, "encoder_heads": 2, "prompt_dim": 48, "decoder_mlp_dim": 32}
MODEL = ModelConfig(window_size=32, spacing_mm=8.0, **SHAPE)
DATA = DataConfig(hq=1, lq=1, windows_per_case=3, first_seed=30_000)
CONFIG = TrainConfig(
    "short", strategy="cpcl", prompts=2, max_clicks=3, epochs=2, steps_per_epoch=2, batch_size=2, lq_per_batch=1,
    targets_per_window=2, accumulate=2, warm_up=1, seed=5, data=DATA, model=MODEL,
    validation=ValidationConfig(phantoms=0),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)  # after every step
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two phantoms, prepared once."""
    folder = tmp_path_factory.mktemp("runs") / "scans"
    ScanBank(DATA, folder).fill(1)
    return folder


@pytest.fixture
def run(scans, tmp_path):
    """Train in a folder of its own; returns what its checkpoint holds."""

    def run(config=CONFIG, folder="run"):
        output = tmp_path / folder
        output.mkdir(exist_ok=True)
        if not (output / "scans").exists():
            (output / "scans").symlink_to(scans)
        train(config, output, processes=1, progress=False)
        return torch.load(output / f"{config.name}.ckpt", weights_only=True)

    return run


def assert_same(one, other, where=""):
    """Equal to the last bit, however deep."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    else:
        assert one == other, where


# ---- interruptions

def test_a_run_killed_between_two_micro_steps_ends_with_the_bits_of_an_unbroken_one(run, tmp_path, monkeypatch, capsys):
    unbroken = run(folder="unbroken")
    whole, calls = Objective.forward, []

    def power_cut(*arguments, **named):
        calls.append(1)
        if len(calls) == 4:  # the second micro-step of the second step: mid-epoch
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(Objective, "forward", power_cut)
    with pytest.raises(KeyboardInterrupt):
        run(folder="broken")
    torch.manual_seed(999)  # nothing may hang on the state of another process
    assert_same(run(folder="broken"), unbroken)
    assert len(calls) == 4 + 6  # one step done, one cut short, three left of two micro-steps each
    assert capsys.readouterr().out == "short resumes after step 1 of 4.\n"
    run(folder="broken")
    assert capsys.readouterr().out.startswith("short is finished: all 4 steps are done.") and len(calls) == 4 + 6
    # The log has each step once, as in the unbroken run but for the clock.
    logs = [list(csv.DictReader((tmp_path / folder / "short.csv").open())) for folder in ("unbroken", "broken")]
    clock = {"seconds", "wait_fraction"}
    one, other = ([{k: v for k, v in row.items() if k not in clock} for row in log] for log in logs)
    assert one == other and len(one) >= 1


def test_a_run_killed_while_writing_a_checkpoint_resumes_from_the_one_before(run, tmp_path, monkeypatch):
    unbroken = run(folder="unbroken")
    whole, saves = torch.save, []

    def power_cut(state, path):
        saves.append(path)
        if len(saves) == 2:
            path.write_bytes(b"half a checkpoint")
            raise KeyboardInterrupt
        whole(state, path)

    monkeypatch.setattr(loop.torch, "save", power_cut)
    with pytest.raises(KeyboardInterrupt):
        run(folder="broken")
    kept = torch.load(tmp_path / "broken" / "short.ckpt", weights_only=True)
    assert kept["step"] == 1
    assert not list((tmp_path / "broken").glob(".unfinished*"))
    assert_same(run(folder="broken"), unbroken)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_resume(run, tmp_path, monkeypatch):
    whole, saves = torch.save, []

    def full(state, path):
        saves.append(path)
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        whole(state, path)

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises(SegAnyPETError, match="No space left on device.*make room.*resumes"):
        run()
    assert torch.load(tmp_path / "run" / "short.ckpt", weights_only=True)["step"] == 1


def test_a_diverged_run_stops_before_it_spoils_its_checkpoint(run, tmp_path, monkeypatch):
    whole, calls = Objective.forward, []

    def diverge(*arguments, **named):
        loss, logs = whole(*arguments, **named)
        calls.append(1)
        return (loss * float("nan") if len(calls) == 4 else loss), logs

    monkeypatch.setattr(Objective, "forward", diverge)
    with pytest.raises(SegAnyPETError, match="short: the loss is nan at step 2; training diverged"):
        run()
    kept = torch.load(tmp_path / "run" / "short.ckpt", weights_only=True)
    assert kept["step"] == 1 and all(torch.isfinite(value).all() for value in kept["model"].values())


def test_a_run_does_not_resume_with_other_settings_or_from_a_damaged_checkpoint(run, tmp_path):
    run()
    with pytest.raises(SegAnyPETError, match="made with a different data.flips, epochs, learning_rate; a run"):
        run(replace(CONFIG, learning_rate=0.1, epochs=3, data=replace(DATA, flips=(0.0, 0.0, 0.0))))
    with pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(999)
        other = Sam3D(MODEL)  # as if its init had had a new edition
        patch.setattr(loop, "initial_model", lambda config, say: other)
        with pytest.raises(SegAnyPETError, match="made with a different starting weights"):
            run()
    state = torch.load(tmp_path / "run" / "short.ckpt", weights_only=True)
    state["settings"]["doubtful_per_batch"] = state["settings"].pop("lq_per_batch")
    torch.save(state, tmp_path / "run" / "short.ckpt")
    with pytest.raises(CheckpointError, match="written by another version of seganypet"):
        run()
    (tmp_path / "run" / "short.ckpt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match="short.ckpt: not a checkpoint of this trainer, or damaged"):
        run()


# ---- what is written

def test_a_run_writes_weights_that_load_model_opens_with_how_they_were_made(run, tmp_path):
    state = run()
    model = load_model(tmp_path / "run" / "short.safetensors")
    assert model.config == MODEL and model.metadata["step"] == 4
    assert model.metadata["training"]["strategy"] == "cpcl" and model.metadata["training"]["data"]["lq"] == 1
    assert 0.4 < model.metadata["lq_dsc"] < 0.95, "how wrong the LQ labels were is reported"
    for key, value in model.state_dict().items():
        assert torch.equal(value, state["average"][key].half().float()), key


def test_the_log_holds_losses_lambda_and_how_much_was_rectified(run, tmp_path):
    run()
    last = list(csv.DictReader((tmp_path / "run" / "short.csv").open()))[-1]
    assert int(last["step"]) == 4 and int(last["epoch"]) == 2
    assert float(last["lambda"]) == pytest.approx(0.1)  # t = t_max
    for name in ("loss_hq", "loss_first_click", "loss_last_click", "loss_lq", "consistency"):
        assert float(last[name]) > 0, name
    assert 0 < float(last["uncertain_fraction"]) < 1 and 0 <= float(last["changed_fraction"]) < 1
    assert 0 <= float(last["wait_fraction"]) < 1


def test_validation_keeps_the_best_epoch_and_draws_it(run, tmp_path, monkeypatch):
    scores = iter((0.5, 0.9, 0.7))
    monkeypatch.setattr(loop, "validation_dsc", lambda *arguments: next(scores))
    case = loop.validation_cases(replace(CONFIG, validation=ValidationConfig(phantoms=1)))
    monkeypatch.setattr(loop, "validation_cases", lambda config: case)
    run(replace(CONFIG, epochs=3, validation=ValidationConfig(phantoms=1, every=1)))
    best, newest = (load_model(tmp_path / "run" / f"short{suffix}.safetensors") for suffix in ("", "-last"))
    assert best.metadata["step"] == 4 and best.metadata["validation_dsc"] == 0.9
    assert newest.metadata["step"] == 6 and newest.metadata["validation_dsc"] == 0.7
    assert sorted(path.name for path in (tmp_path / "run").glob("*.png")) == [
        f"short-epoch-00{number}.png" for number in (1, 2, 3)
    ]
    logged = [row["validation_dsc"] for row in csv.DictReader((tmp_path / "run" / "short.csv").open())]
    assert [float(value) for value in logged if value] == [0.5, 0.9, 0.7]


def test_validation_is_the_protocol_of_evaluate_on_seen_organs():
    case = loop.validation_cases(replace(CONFIG, validation=ValidationConfig(phantoms=1)))[0]
    pet = case.load_pet()

    class Oracle:
        """Draws the organ that was clicked."""

        name = "oracle"

        def reset(self):
            pass

        def click(self, ijk, foreground):
            return case.organs == case.organs[ijk]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seganypet.study.methods.open_session", lambda model, volume: Oracle())
        assert loop.validation_dsc(Oracle(), [case], clicks=1) == 1.0
    assert pet.shape == case.organs.shape


def test_prompt_encoder_and_decoder_learn_at_their_own_rate(run):
    state = run(replace(CONFIG, decoder_factor=0.1, schedule="multistep", milestones=(1,), gamma=0.1, epochs=2))
    encoder, decoder = (group["lr"] for group in state["optimiser"]["param_groups"])
    assert encoder == pytest.approx(1e-3 * 0.1) and decoder == pytest.approx(1e-3 * 0.1 * 0.1)


# ---- samples and clicks

def test_what_is_not_learned_keeps_its_bits(run, tmp_path):
    save_model(tmp_path / "before.safetensors", Sam3D(MODEL), "before", {})
    before = load_model(tmp_path / "before.safetensors")
    state = run(replace(CONFIG, init=str(tmp_path / "before.safetensors"), learned=("mask_decoder",)))
    changed = {name for name, value in before.state_dict().items() if not torch.equal(value, state["model"][name])}
    assert changed and all(name.startswith("mask_decoder") for name in changed)
    with pytest.raises(SegAnyPETError, match="learned: no parameter's name begins with 'decoder'; there are image_enc"):
        run(replace(CONFIG, learned=("decoder",)), "other")


def test_a_sample_depends_on_seed_and_number_alone_and_lq_ones_come_last_in_a_batch(scans):
    bank = ScanBank(DATA, scans)
    samples, again = (TrainingSamples(CONFIG, MODEL, bank) for _ in range(2))
    for number in (0, 1, 6, 7):
        one, other = samples[number], again[number]
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert one["lq"].item() == (number % 2 == 1)
        assert one["suv"].shape == (1, 32, 32, 32) and one["label"].shape == (2, 32, 32, 32)
        assert one["label"].flatten(1).any(1).all() and set(one["label"].unique().tolist()) == {0, 1}
    assert not torch.equal(samples[0]["suv"], samples[2]["suv"])


def test_lq_scans_hold_an_annotators_labels_and_clean_ones_the_truth(scans):
    bank = ScanBank(DATA, scans)
    hq, lq = bank[bank.hq[0]], bank[bank.lq[0]]
    assert torch.equal(hq["given"], hq["truth"])
    assert not torch.equal(lq["given"], lq["truth"])
    assert set(lq["given"].unique().tolist()) <= {0, 1, 2, 3, 4, 5}, "seen organs alone"
    clean = TrainingSamples(replace(CONFIG, data=replace(DATA, clean=True)), MODEL, bank)
    noisy = TrainingSamples(CONFIG, MODEL, bank)
    assert torch.equal(clean[1]["suv"], noisy[1]["suv"]), "arms of an ablation see the same windows"
    assert not torch.equal(clean[1]["label"], noisy[1]["label"])


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


# ---- strategies

@pytest.fixture
def batch(scans):
    samples = TrainingSamples(CONFIG, MODEL, ScanBank(DATA, scans))
    return torch.utils.data.default_collate([samples[0], samples[1]])


def losses_of(config, batch, progress=1.0):
    torch.manual_seed(3)
    objective = Objective(Sam3D(MODEL), config)
    torch.manual_seed(4)
    loss, logs = objective(batch["suv"], batch["label"], batch["lq"], 3, progress)
    loss.backward()
    key = "mask_decoder.transformer.layers.0.mlp.lin1.weight"
    return loss.item(), {name: value.item() for name, value in logs.items()}, objective.model.get_parameter(key).grad


def test_each_strategy_weighs_its_parts_as_it_says(batch):
    loss, logs, _ = losses_of(replace(CONFIG, strategy="finetune"), batch)
    assert loss == pytest.approx(logs["loss_hq"] + logs["loss_lq"], rel=1e-5)
    loss, logs, _ = losses_of(replace(CONFIG, strategy="consistency"), batch)
    assert loss == pytest.approx(logs["loss_hq"] + logs["loss_lq"] + 0.1 * logs["consistency"], rel=1e-5)
    loss, logs, _ = losses_of(CONFIG, batch)
    assert loss == pytest.approx(logs["loss_hq"] + 0.1 * (logs["loss_lq"] + logs["consistency"]), rel=1e-5)
    loss, logs, _ = losses_of(replace(CONFIG, lq_weight=1.0), batch)
    assert loss == pytest.approx(logs["loss_hq"] + logs["loss_lq"] + 0.1 * logs["consistency"], rel=1e-5)


def test_weight_0_learns_from_hq_labels_alone(batch):
    config = replace(CONFIG, strategy="finetune", lq_weight=0.0)
    _, _, gradient = losses_of(config, batch)
    batch["label"][1] = 1 - batch["label"][1]  # the LQ ones
    # The user clicks elsewhere now, so random numbers differ; what is learned from HQ labels may not.
    loss, logs, _ = losses_of(config, batch)
    assert loss == pytest.approx(logs["loss_hq"]) and gradient.abs().sum() > 0


def test_the_released_loss_keeps_two_thirds_of_the_given_label(batch):
    released = losses_of(replace(CONFIG, released_loss=True), batch)[1]["loss_lq"]
    rectified = losses_of(CONFIG, batch)[1]["loss_lq"]
    given = losses_of(replace(CONFIG, strategy="finetune"), batch)[1]["loss_lq"]
    assert released == pytest.approx((2 * given + rectified) / 3, rel=1e-5)


@pytest.mark.parametrize("field, values", [
    ("uncertainty", ("entropy", "variance", "logit_variance")), ("threshold", ("mean", "quantile")),
    ("rectification", ("replace", "flip", "ignore")), ("consistency", ("mse", "kl")),
    ("loss_grid", ("logits", "window")),
])  # fmt: skip
def test_every_option_trains_and_makes_a_difference(batch, field, values):
    found = [losses_of(replace(CONFIG, **{field: value}), batch)[0] for value in values]
    assert np.isfinite(found).all() and len(set(found)) == len(values)


# ---- cohorts

SAMPLES = REPOSITORY / "data_samples"


def cohort_config(folder, *cases):
    """Cases are (folder of sample, organs file, convention, quality, split)."""
    rows = ["case,patient,pet,pet_unit,organs,organ_convention,quality,split"]
    for number, (sample, *rest) in enumerate(cases):
        rows.append(",".join(map(str, (f"case{number}", number, SAMPLES / sample / "SUV.nii.gz", "SUVbw", *rest))))
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    data = DataConfig(cohort=str(folder / "cohort.csv"), windows_per_case=3)
    return replace(CONFIG, data=data, epochs=1, steps_per_epoch=1)


def test_a_cohort_is_trained_on_its_own_labels_and_their_quality(tmp_path):
    config = cohort_config(
        tmp_path,
        ("phantom_internal_9000", SAMPLES / "phantom_internal_9000" / "organs.nii.gz", "seganypet", "HQ", "train"),
        ("phantom_internal_9005", SAMPLES / "phantom_internal_9005" / "organs.nii.gz", "seganypet", "LQ", "train"),
    )
    model = train(config, tmp_path, processes=1, progress=False)
    assert model.metadata["training"]["data"]["cohort"].endswith("cohort.csv")
    bank = ScanBank(config.data, tmp_path / "scans")
    assert len(bank.hq) == len(bank.lq) == 1
    assert len(list((tmp_path / "scans").glob("*.pt"))) == 2


def test_the_supplements_recipe_trains_weights_of_the_released_layout(tmp_path):
    cases = (("phantom_internal_9000", "HQ"), ("phantom_internal_9005", "LQ"))
    rows = [(name, SAMPLES / name / "organs.nii.gz", "seganypet", quality, "train") for name, quality in cases]
    table = cohort_config(tmp_path, *rows).data.cohort
    recipe = load_config(REPOSITORY / "seganypet" / "configs" / "supplement.yaml")
    released = REPOSITORY / "tests" / "data" / "reference" / "mini_training_checkpoint.pth"
    small = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 2, "lq_per_batch": 1, "accumulate": 2}
    data = replace(recipe.data, cohort=table, windows_per_case=1)
    config = replace(recipe, **small, max_clicks=3, init=str(released), data=data)
    model = train(config, tmp_path, processes=1, progress=False)
    before = load_model(released)
    assert model.config == before.config and model.config.form == "released"
    key = "image_encoder.blocks.0.attn.rel_pos_d"
    assert not torch.equal(model.state_dict()[key], before.state_dict()[key].half().float())


@pytest.mark.parametrize(
    "organs, split, message",
    [
        ("{samples}/missing.nii.gz", "train", "case case0.*missing.nii.gz does not exist"),
        ("{samples}/phantom_internal_9005/organs.nii.gz", "train", "do not lie on the grid"),
        ("{folder}/empty.nii.gz", "train", "SUV.nii.gz: none of the labels"),
        ("{folder}/aorta.nii.gz", "train", "SUV.nii.gz: none of the labels"),
        ("", "train", "case case0 of .*: no organs to learn"),
        ("{samples}/phantom_internal_9000/organs.nii.gz", "test", "no case with split='train'"),
    ],
    ids=["missing file", "other grid", "empty labels", "no class that is learned", "no labels", "nothing to train on"],
)
def test_a_cohort_that_cannot_be_learned_is_named_before_the_first_step(tmp_path, organs, split, message):
    pet = load_volume(SAMPLES / "phantom_internal_9000" / "SUV.nii.gz", unit="SUVbw")
    labels = np.zeros(pet.shape, np.uint8)
    save_mask(tmp_path / "empty.nii.gz", labels, pet)
    labels[10:40, 10:40, 10:40] = 6
    save_mask(tmp_path / "aorta.nii.gz", labels, pet)
    organs = organs.format(samples=SAMPLES, folder=tmp_path)
    config = cohort_config(tmp_path, ("phantom_internal_9000", organs, "seganypet", "HQ", split))
    with pytest.raises(SegAnyPETError, match=message):
        train(replace(config, lq_per_batch=0), tmp_path, processes=1, progress=False)
    assert not (tmp_path / "short.csv").exists() and not (tmp_path / "short.ckpt").exists()


# ---- what is refused before the first step

@pytest.mark.parametrize(
    "quality, lq_per_batch, message",
    [
        ("HQ", 1, "lq_per_batch is 1, but no case of split 'train' in .*cohort.csv has LQ labels"),
        ("", 1, "lq_per_batch is 1, but no case of split 'train' in .*cohort.csv has LQ labels"),
        ("LQ", 0, "lq_per_batch is 0 of batch_size 2, so the others must be HQ, but no case"),
    ],
)
def test_batches_that_the_cohorts_labels_cannot_fill_are_refused_before_a_scan_is_prepared(
    tmp_path, quality, lq_per_batch, message
):
    organs = SAMPLES / "phantom_internal_9000" / "organs.nii.gz"
    config = cohort_config(tmp_path, ("phantom_internal_9000", organs, "seganypet", quality, "train"))
    with pytest.raises(SegAnyPETError, match=message):
        train(replace(config, lq_per_batch=lq_per_batch), tmp_path, processes=1, progress=False)
    assert not list((tmp_path / "scans").iterdir())


def test_a_cohort_without_validation_cases_says_that_the_last_epoch_is_kept(tmp_path):
    organs = SAMPLES / "phantom_internal_9000" / "organs.nii.gz"
    config = cohort_config(tmp_path, ("phantom_internal_9000", organs, "seganypet", "HQ", "train"))
    with pytest.warns(UserWarning, match="cohort.csv has no case of split 'val' with organs.*the last epoch is kept"):
        assert loop.validation_cases(config) == []


def test_a_second_run_of_one_name_in_one_folder_is_refused_while_the_first_is_alive(run, tmp_path, monkeypatch):
    whole, calls, others = Objective.forward, [], []

    def meanwhile(*arguments):
        calls.append(1)
        if len(calls) == 1:  # in the first step of the first run
            with pytest.raises(SegAnyPETError, match="short.ckpt is being written by another run"):
                run()
            others.append(run(replace(CONFIG, name="other"))["step"])  # another name is another run
        return whole(*arguments)

    monkeypatch.setattr(Objective, "forward", meanwhile)
    assert run()["step"] == 4 and others == [4]
    assert run()["step"] == 4, "a run that has ended holds no lock"


@pytest.mark.parametrize("devices", [0, "two", -1])
def test_devices_that_cannot_be_are_refused(tmp_path, devices):
    with pytest.raises(SegAnyPETError, match='expected "auto" or an integer of at least 1'):
        train(CONFIG, tmp_path, devices=devices)


@pytest.mark.parametrize("begin", [train, prepare])
def test_a_number_of_processes_that_is_none_is_refused_before_anything_is_written(tmp_path, begin):
    with pytest.raises(SegAnyPETError, match="processes=0.* expected at least 1"):
        begin(CONFIG, tmp_path / "runs", processes=0)
    assert not (tmp_path / "runs").exists()


# ---- several processes

def test_prepared_scans_are_those_that_a_run_uses(tmp_path, run):
    assert prepare(CONFIG, tmp_path / "run", processes=1, progress=False) == 2
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "scans").iterdir()}
    run()
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "scans").iterdir()} == before
    assert len(before) == 2


def test_phantoms_are_renewed_between_epochs_and_a_resumed_run_sees_the_same_ones(tmp_path):
    data = replace(DATA, hq=2, lq=0, renewed=1)
    seeds = [[source.made_of["seed"] for source in scan_sources(data, epoch)] for epoch in range(4)]
    assert seeds == [[30_000, 30_001], [30_002, 30_001], [30_002, 30_003], [30_004, 30_003]]
    config = replace(CONFIG, strategy="finetune", lq_per_batch=0, epochs=3, steps_per_epoch=1, data=data)
    train(config, tmp_path, processes=1, progress=False)
    kept = {path.name for path in (tmp_path / "scans").glob("*.pt")}
    assert kept >= {source.file_name for source in scan_sources(data, 2)}
    assert not kept & {source.file_name for source in scan_sources(data, 0)}, "what no later epoch needs is removed"


@pytest.mark.slow
def test_two_processes_under_torchrun_train_one_network(tmp_path, scans):
    (tmp_path / "scans").symlink_to(scans)
    (tmp_path / "config.yaml").write_text(
        "name: both\nstrategy: cpcl\nprompts: 2\nmax_clicks: 3\nepochs: 1\nsteps_per_epoch: 2\nbatch_size: 2\n"
        "lq_per_batch: 1\naccumulate: 2\nvalidation: {phantoms: 0}\n"
        "data: {hq: 1, lq: 1, windows_per_case: 3, first_seed: 30000}\n"
        "model: {window_size: 32, spacing_mm: 8.0, encoder_dim: 24, encoder_depth: 1, encoder_heads: 2, prompt_dim: 48,"
        " decoder_mlp_dim: 32}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29577"]
    command += ["-m", "seganypet", "train", tmp_path / "config.yaml", "--output", tmp_path, "--devices", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    state = torch.load(tmp_path / "both.ckpt", weights_only=True)
    assert state["step"] == 2 and state["settings"]["number of devices"] == 2
    assert load_model(tmp_path / "both.safetensors").metadata["step"] == 2


# ---- readings and masks to start from

def test_only_the_best_reading_of_a_first_click_learns_the_target_and_predicted_iou_what_all_reach():
    objective = Objective(Sam3D(MODEL), replace(CONFIG, strategy="finetune", prompts=1, readings=True))
    target = torch.zeros(1, 1, 16, 16, 16)
    target[:, :, 4:12, 4:12, 4:12] = 1
    sure = torch.tensor([0.1, 0.1, 0.2, 0.1])[:, None, None, None]  # the second reading is the best
    logits = (sure * (2 * target[0] - 1))[None, None].requires_grad_()  # (K, N, 4, m, m, m)
    iou = torch.zeros(1, 1, 4, requires_grad=True)
    everything = torch.tensor([True])
    for alone in (True, False):
        first = FirstMasks(logits, iou, torch.tensor([[alone]]), torch.zeros(1, 1, 3), torch.ones(1, 1))
        losses = objective.reading_losses(first, logits[0, :, :1], iou[0, :, :1], target, everything)
        grads = torch.autograd.grad(losses["loss_readings"] + losses["loss_iou"], [logits, iou], retain_graph=True)
        learned = grads[0][0, 0].abs().sum((1, 2, 3)).tolist()
        if alone:
            assert learned[2] > 20 * max(learned[1], learned[3]) > 0
        else:
            assert max(learned) == 0, "a mask to start from leaves no doubt"
        assert (grads[1][0, 0] < 0).tolist() == [True, alone, alone, alone], "every mask is the target: IoU 1, not 0"


def test_a_mask_to_start_from_says_some_of_the_target_and_little_else():
    torch.manual_seed(0)
    soft = torch.zeros(24, 1, 32, 32, 32)
    soft[:, :, 8:24, 8:24, 8:24] = 1
    starts = draw_start_masks(soft, torch.full((24, 1, 3), 31.0), 64)
    said = (starts > 0).float()
    inside = (said * soft).sum((1, 2, 3, 4)) / said.sum((1, 2, 3, 4)).clamp(min=1)
    assert (inside[said.flatten(1).any(1)] > 0.5).float().mean() > 0.8
    assert 0.2 < (said * soft).sum() / soft.sum() < 0.95
    assert any((one == 0).any() for one in starts), "beside another window, nothing is known of the far side"
