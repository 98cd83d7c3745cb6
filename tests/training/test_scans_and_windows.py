"""Training windows hold what they say: labels lie on the uptake that they belong to, whatever the scan's grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import oblique

import seganypet as sap
from seganypet.errors import SegAnyPETError
from seganypet.model.config import ModelConfig
from seganypet.pet.volume import Volume, load_labels, save_mask, save_volume
from seganypet.training import scenes
from seganypet.training.augment import degrade, mirror, redraw_contrasts
from seganypet.training.config import DataConfig, TrainConfig
from seganypet.training.samples import LESION_LAYER, TrainingSamples
from seganypet.training.scans import ScanBank
from seganypet.training.scenes import MIN_VOXELS, scene_of_shapes
from seganypet.training.supervoxels import grow_supervoxels
from seganypet.training.windows import cut_labels, cut_uptake, place


def ball_scan(affine: np.ndarray) -> tuple[Volume, np.ndarray]:
    """A hot ball of 60 mm, label 3, in a cold scan; and its label map."""
    ijk = np.stack(np.meshgrid(*[np.arange(size) for size in (60, 56, 70)], indexing="ij"), -1)
    mm = ijk @ affine[:3, :3].T + affine[:3, 3]
    inside = np.linalg.norm(mm - mm[33, 25, 38], axis=-1) < 30
    return Volume(np.where(inside, 5.0, 0.2), affine, "SUVbw", source="ball"), np.where(inside, 3, 0).astype(np.uint8)


def placed(pet, labels, spacing_mm, seed, size=48):
    """A window of a ball, placed at random: its geometry, uptake and label."""
    inside = np.argwhere(labels)
    box = np.array([inside.min(0), inside.max(0)], float)
    geometry = place(inside, box, pet.affine, size, (spacing_mm, spacing_mm), True, np.random.default_rng(seed))
    positions = geometry.positions()
    suv = cut_uptake(torch.from_numpy(np.ascontiguousarray(pet.data)), geometry, positions)
    return geometry, suv, cut_labels(torch.from_numpy(labels)[None], positions)[0]


# ---- windows

@pytest.mark.parametrize("left_handed", [False, True])
def test_a_label_lies_on_its_uptake_on_an_oblique_grid_however_the_window_is_turned_and_bent(left_handed):
    pet, labels = ball_scan(oblique((4.07, 4.07, 3.0), left_handed))
    for seed in range(6):
        _, suv, label = placed(pet, labels, 4.0, seed)
        assert sap.dice(label == 3, suv > 2.6) > 0.9


def test_a_window_has_the_voxel_size_that_was_asked_for():
    pet, labels = ball_scan(oblique((4.07, 4.07, 3.0)))
    whole = [placed(pet, labels, 4.0, seed)[2] for seed in range(12)]
    millilitres = [np.count_nonzero(label) * 4.0**3 / 1000 for label in whole if not _meets_face(label)]
    expected = 4 / 3 * np.pi * 3.0**3  # stretched by a tenth or so along each axis
    assert len(millilitres) >= 4
    assert np.median(millilitres) == pytest.approx(expected, rel=0.25)


def _meets_face(label):
    return any(label.take(side, axis).any() for axis in range(3) for side in (0, -1))


def test_windows_lie_round_a_click_round_an_object_and_beside_it():
    pet, labels = ball_scan(oblique((4.07, 4.07, 3.0)))
    middle, cut = 0, 0
    for seed in range(40):
        _, _, label = placed(pet, labels, 2.0, seed)
        cut += _meets_face(label)
        middle += label[24, 24, 24] == 3
    assert 10 <= cut <= 40 and 20 <= middle < 40


def test_coarse_windows_average_what_fine_scans_hold():
    rng = np.random.default_rng(0)
    noise = Volume(np.abs(rng.normal(3, 1, (80, 80, 80))), np.diag([2.0, 2.0, 2.0, 1]), "SUVbw")
    labels = np.zeros(noise.shape, np.uint8)
    labels[20:60, 20:60, 20:60] = 1
    coarse, fine = (placed(noise, labels, spacing, 3, 24) for spacing in (6.0, 2.0))
    spread = [suv[label == 1].std() for _, suv, label in (coarse, fine)]
    assert spread[0] < 0.6 * spread[1]


# ---- scans

def test_everything_that_a_click_may_mean_is_a_target_and_only_what_was_asked_for(tmp_path):
    everything = ScanBank(DataConfig(hq=1, targets=None, first_seed=30_001), tmp_path)[0]
    assert set(everything["targets"][:, 0].tolist()) >= {0, 1}
    for (layer, label), points in zip(everything["targets"].tolist(), everything["points"], strict=True):
        i, j, k = points.long().T
        assert (everything["given"][layer][i, j, k] == label).all()
    organs = ScanBank(DataConfig(hq=1, targets=("liver", "spleen"), first_seed=30_001), tmp_path)[0]
    assert organs["targets"].tolist() == [[0, 1], [0, 5]] and set(organs["given"].unique().tolist()) == {0, 1, 5}


def test_a_scan_is_cut_to_the_body_and_stays_in_place(tmp_path):
    scan = ScanBank(DataConfig(hq=1, first_seed=30_000), tmp_path)[0]
    case = sap.make_phantom(30_000)
    liver = np.argwhere(scan["given"][0].numpy() == 1).mean(0)
    expected = case.pet.to_mm(np.argwhere(case.organs == 1).mean(0))
    assert np.allclose(scan["affine"].numpy()[:3] @ [*liver, 1], expected, atol=1e-6)
    assert scan["suv"].numel() < case.pet.data.size


def test_where_nobody_has_lesions_none_is_a_target(tmp_path):
    scan = ScanBank(DataConfig(hq=1, targets=None, first_seed=30_001, lesions=False), tmp_path)[0]
    assert LESION_LAYER not in scan["targets"][:, 0].tolist() and not scan["given"][LESION_LAYER].any()


def test_scenes_of_shapes_have_targets():
    for seed in range(5):
        suv, labels = scene_of_shapes(np.random.default_rng(seed), 32, 8.0)
        assert np.isfinite(suv).all() and suv.min() >= 0
        assert np.bincount(labels.ravel())[1:].max() >= MIN_VOXELS


def test_a_scene_in_which_no_shape_can_be_seen_is_drawn_again(monkeypatch):
    whole, calls = scenes._shape, []

    def outside_at_first(positions, rng):
        calls.append(1)
        return whole(positions, rng) & (len(calls) > 9)  # more shapes than the first scene has

    monkeypatch.setattr(scenes, "_shape", outside_at_first)
    assert scene_of_shapes(np.random.default_rng(0), 32, 8.0)[1].any()
    assert len(calls) > 9


def test_samples_of_everything_hold_their_targets_and_all_layers_take_their_turn(tmp_path):
    data = DataConfig(hq=1, targets=None, shapes=1, first_seed=30_002)
    config = TrainConfig("any", data=data, batch_size=4, targets_per_window=3)
    samples = TrainingSamples(config, ModelConfig(window_size=32, spacing_mm=8.0), ScanBank(data, tmp_path))
    for number in range(12):
        one = samples[number]
        assert (one["label"].flatten(1).sum(1) >= MIN_VOXELS).all()
        assert torch.isfinite(one["suv"]).all() and one["suv"].min() >= 0


def test_windows_are_drawn_for_lesions_as_often_as_is_asked(tmp_path, monkeypatch):
    fractions = {}
    for asked in (0.0, 0.6, 1.0):
        data = DataConfig(hq=1, targets=None, first_seed=30_002, lesion_fraction=asked)
        bank = ScanBank(data, tmp_path)
        lesions = bank[0]["given"][2].numpy()
        assert lesions.any()
        in_lesion = []

        def watched(points, *others, lesions=lesions, in_lesion=in_lesion):
            in_lesion.append((lesions[tuple(points.T)] > 0).all())
            return place(points, *others)

        monkeypatch.setattr("seganypet.training.samples.place", watched)
        samples = TrainingSamples(TrainConfig("any", data=data), ModelConfig(window_size=16, spacing_mm=8.0), bank)
        for number in range(30):
            samples[number]
        fractions[asked] = np.mean(in_lesion)
    assert fractions[0.0] == 0 and fractions[1.0] == 1 and 0.3 < fractions[0.6] < 0.95


def test_doubtful_labels_are_drawn_by_whom_the_config_names_and_true_ones_stay(tmp_path):
    anybody = DataConfig(hq=1, lq=1, lq_dsc=0.7, first_seed=30_010)
    generous = replace(anybody, lq_annotators=("boundary",))
    (hq, lq), (same, other) = (ScanBank(data, tmp_path).sources for data in (anybody, generous))
    assert hq.file_name == same.file_name and lq.file_name != other.file_name
    drawn = ScanBank(generous, tmp_path)[1]
    assert np.count_nonzero(drawn["given"]) > 1.15 * np.count_nonzero(drawn["truth"])


def test_what_is_rehearsed_is_learned_whole_from_patients_of_its_own_in_its_places_of_a_batch(tmp_path):
    data = DataConfig(hq=1, lq=1, rehearsed=2, targets=("liver",), first_seed=30_010)
    config = TrainConfig("any", data=data, batch_size=4, rehearsed_per_batch=2, lq_per_batch=1)
    drawn_from = []

    class Watched(ScanBank):
        def __getitem__(self, index):
            drawn_from.append(index)
            return super().__getitem__(index)

    bank = Watched(data, tmp_path)
    assert len({source.made_of["seed"] for source in bank.sources}) == 4
    samples = TrainingSamples(config, ModelConfig(window_size=32, spacing_mm=8.0), bank)
    assert [bool(samples[number]["lq"]) for number in range(4)] == [False, False, False, True]
    rehearsed, hq, lq = set(drawn_from[:2]), drawn_from[2], drawn_from[3]
    assert rehearsed <= set(bank.rehearsed) and [hq] == bank.hq and [lq] == bank.lq
    assert len(bank[bank.hq[0]]["targets"]) == 1 < len(bank[bank.rehearsed[0]]["targets"])


# ---- augmentation

def test_mirroring_moves_image_and_labels_together():
    rng = np.random.default_rng(0)
    suv = np.zeros((12, 12, 12), np.float32)
    suv[1:4, 7:10, 2:9] = 6.0
    label = (suv > 0)[None].astype(np.uint8)
    moved = 0
    for _ in range(10):
        new_suv, new_label = mirror(suv, label, (0.5, 0.5, 0.5), rng)
        assert np.array_equal(new_suv > 2.0, new_label[0] == 1)
        moved += not np.array_equal(new_label, label)
    assert moved >= 5


def test_contrasts_are_redrawn_tissue_by_tissue():
    tissues = np.zeros((16, 16, 16), np.uint8)
    tissues[:, 8:] = 7
    scaled = redraw_contrasts(np.ones(tissues.shape, np.float32), tissues, np.random.default_rng(1))
    one, other = scaled[:, :6], scaled[:, 10:]
    assert one.std() < 1e-6 > other.std() and abs(one.mean() / other.mean() - 1) > 0.05


def test_a_degraded_image_is_an_image():
    suv = np.abs(np.random.default_rng(0).normal(2, 1, (24, 24, 24))).astype(np.float32)
    images = [degrade(suv, np.random.default_rng(seed)) for seed in range(40)]
    assert all(image.shape == suv.shape and image.min() >= 0 and np.isfinite(image).all() for image in images)
    assert any((image == 0).mean() > 0.02 for image in images), "air, and what lies outside the field of view"


def test_supervoxels_are_pieces_of_similar_uptake():
    pet, _ = ball_scan(oblique((4.07, 4.07, 3.0)))
    noisy = pet.data + np.random.default_rng(0).normal(0, 0.1, pet.shape)
    pieces = grow_supervoxels(noisy, np.random.default_rng(5))
    assert np.array_equal(pieces, grow_supervoxels(noisy, np.random.default_rng(5)))
    sizes = np.bincount(pieces.ravel())[1:]
    assert np.count_nonzero(sizes) >= 5
    body = pieces > 0
    within = sum(noisy[pieces == label].var() * size for label, size in enumerate(sizes, start=1) if size)
    assert within / sizes.sum() < 0.3 * noisy[body].var()


def test_an_image_without_uptake_has_no_supervoxels():
    assert not grow_supervoxels(np.zeros((8, 8, 8)), np.random.default_rng(0)).any()


# ---- a kept scan is known by what it was made of

def test_a_scan_is_prepared_once_and_read_from_disk_ever_after(tmp_path, monkeypatch):
    data = DataConfig(hq=2, first_seed=30_000)
    bank = ScanBank(data, tmp_path)
    made = [bank[index] for index in range(2)]
    monkeypatch.setattr("seganypet.training.scans.make_scan", None)  # preparing again would raise
    for index, scan in enumerate(made):
        again = ScanBank(data, tmp_path)[index]
        assert all(torch.equal(scan[name], again[name]) for name in scan)


def test_a_killed_run_prepares_what_is_missing_and_other_data_settings_get_their_own(tmp_path):
    data = DataConfig(hq=2, first_seed=30_000)
    ScanBank(data, tmp_path).fill(1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    next(iter(tmp_path.glob("*.pt"))).unlink()  # as if the run had been killed before the second scan
    ScanBank(data, tmp_path).fill(1)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    assert set(after) == set(before) and sum(after[name] == before[name] for name in before) == 1
    ScanBank(DataConfig(hq=1, first_seed=30_002), tmp_path).fill(1)
    assert len(list(tmp_path.glob("*.pt"))) == 3


@pytest.fixture
def cohort(tmp_path):
    """A cohort of one small scan in a folder of its own; returns the folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    pet, labels = ball_scan(oblique((6.0, 6.0, 6.0)))
    save_volume(folder / "pet.nii.gz", pet)
    save_mask(folder / "organs.nii.gz", labels, pet)
    write_table(folder, "seganypet")
    return folder


def write_table(folder, convention, quality="HQ", unit="SUVbw"):
    header = "case,patient,pet,pet_unit,organs,organ_convention,quality,split\n"
    row = f"one,1,pet.nii.gz,{unit},organs.nii.gz,{convention},{quality},train\n"
    (folder / "cohort.csv").write_text(header + row)


def scan_of(folder, cache):
    """The scan, and whether it was prepared rather than read."""
    before = len(list(cache.glob("*.pt")))
    bank = ScanBank(DataConfig(cohort=str(folder / "cohort.csv")), cache)
    scan = {name: value.clone() for name, value in bank[0].items()}
    return scan, len(list(cache.glob("*.pt"))) > before


def test_corrected_labels_and_a_rewritten_scan_are_prepared_again(cohort, tmp_path):
    cache = tmp_path / "scans"
    first, made = scan_of(cohort, cache)
    assert made
    pet = sap.load_volume(cohort / "pet.nii.gz", unit="SUVbw")
    labels = load_labels(cohort / "organs.nii.gz", like=pet)
    labels[:30] = 0  # half of the ball
    save_mask(cohort / "organs.nii.gz", labels, pet)
    corrected, made = scan_of(cohort, cache)
    assert made and 0 < (corrected["given"] > 0).sum() < (first["given"] > 0).sum()
    save_volume(cohort / "pet.nii.gz", Volume(2 * pet.data, pet.affine, "SUVbw"))
    hotter, made = scan_of(cohort, cache)
    assert made and hotter["suv"].max().item() == pytest.approx(2 * first["suv"].max().item(), rel=0.01)


def test_the_unit_of_a_scan_and_the_convention_of_its_labels_belong_to_it(cohort, tmp_path):
    for convention, unit in (("seganypet", "SUVbw"), ("autopet-organ", "SUVbw"), ("seganypet", "Bq/mL")):
        write_table(cohort, convention, unit=unit)
        assert scan_of(cohort, tmp_path / "scans")[1]


def test_a_moved_folder_and_another_quality_are_read_from_disk(cohort, tmp_path):
    first, _ = scan_of(cohort, tmp_path / "scans")
    moved = cohort.rename(tmp_path / "elsewhere")
    write_table(moved, "seganypet", quality="LQ")
    again, made = scan_of(moved, tmp_path / "scans")
    assert not made and all(torch.equal(first[name], again[name]) for name in first)


def test_labels_of_which_none_is_learned_are_refused_by_name(cohort, tmp_path):
    data = DataConfig(cohort=str(cohort / "cohort.csv"), targets=("spleen",))
    with pytest.raises(SegAnyPETError, match=r"pet.nii.gz: none of the labels \[5\]"):
        ScanBank(data, tmp_path / "scans")[0]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: bytes(len(content)),
     lambda content: b"<html>" * 100],
    ids=["half a file", "empty", "zeros", "html"],
)  # fmt: skip
def test_a_damaged_scan_is_prepared_again(cohort, tmp_path, damage):
    cache = tmp_path / "scans"
    first, _ = scan_of(cohort, cache)
    for path in cache.glob("*.pt"):
        path.write_bytes(damage(path.read_bytes()))
    again, _ = scan_of(cohort, cache)
    assert all(torch.equal(first[name], again[name]) for name in first)
