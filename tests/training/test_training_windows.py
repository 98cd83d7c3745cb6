"""Training windows hold what they say: labels lie on the uptake that they belong to, whatever the scan's grid."""

import numpy as np
import pytest
import torch
from conftest import oblique

import seganypet as sap
from seganypet.errors import SegAnyPETError
from seganypet.pet.volume import Volume, load_labels, save_mask, save_volume
from seganypet.training import scenes
from seganypet.training.config import DataConfig
from seganypet.training.samples import WindowBank, augment
from seganypet.training.scenes import MIN_VOXELS, window_of_anything, window_of_organs, window_of_shapes
from seganypet.training.supervoxels import grow_supervoxels


def ball_scan(affine: np.ndarray) -> tuple[Volume, np.ndarray]:
    """A hot ball of 60 mm, label 3, in a cold scan; and its label map."""
    ijk = np.stack(np.meshgrid(*[np.arange(size) for size in (60, 56, 70)], indexing="ij"), -1)
    mm = ijk @ affine[:3, :3].T + affine[:3, 3]
    inside = np.linalg.norm(mm - mm[33, 25, 38], axis=-1) < 30
    return Volume(np.where(inside, 5.0, 0.2), affine, "SUVbw", source="ball"), np.where(inside, 3, 0).astype(np.uint8)


@pytest.mark.parametrize("left_handed", [False, True])
def test_a_label_lies_on_its_uptake_on_an_oblique_grid(left_handed):
    pet, labels = ball_scan(oblique((4.07, 4.07, 3.0), left_handed))
    window = window_of_organs(pet, labels, labels, [3], 32, 4.0, np.random.default_rng(0))
    assert window.targets.tolist() == [[0, 3]]
    inside = window.given[0] == 3
    assert inside.sum() * 4.0**3 == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.05)
    assert sap.dice(inside, window.suv > 2.6) > 0.95


def test_an_annotators_error_stays_in_place_and_the_truth_beside_it():
    pet, truth = ball_scan(oblique((4.07, 4.07, 3.0)))
    given = np.roll(truth, 4, axis=2)
    window = window_of_organs(pet, given, truth, [3], 32, 4.0, np.random.default_rng(1))
    shift_mm = np.linalg.norm((np.argwhere(window.given[0]).mean(0) - np.argwhere(window.truth[0]).mean(0)) * 4.0)
    assert shift_mm == pytest.approx(4 * 3.0, abs=1.5)


def test_only_organs_that_are_asked_for_are_targets():
    case = sap.make_phantom(30_000)
    window = window_of_organs(case.pet, case.organs, case.organs, [1, 5], 64, 4.0, np.random.default_rng(0))
    assert set(np.unique(window.given)) <= {0, 1, 5}
    assert {label for _, label in window.targets.tolist()} <= {1, 5}


def test_an_empty_label_map_is_refused_by_name():
    pet, labels = ball_scan(oblique((4.07, 4.07, 3.0)))
    with pytest.raises(SegAnyPETError, match=r"ball: none of the labels \[1, 2\]"):
        window_of_organs(pet, labels, labels, [1, 2], 32, 4.0, np.random.default_rng(0))


def test_windows_of_anything_hold_their_targets_and_the_same_seed_gives_the_same_ones():
    case = sap.make_phantom(30_001, lesions="melanoma")
    layers = set()
    for seed in range(8):
        window, again = (window_of_anything(case, 48, 4.0, np.random.default_rng(seed)) for _ in range(2))
        for layer, label in window.targets.tolist():
            assert label > 0 and (window.given[layer] == label).sum() >= MIN_VOXELS
        layers.add(int(window.targets[0, 0]))
        assert np.array_equal(window.suv, again.suv) and np.array_equal(window.targets, again.targets)
    assert layers == {0, 1, 2}, "organs, other tissue and lesions all take their turn"


def test_where_nobody_has_lesions_none_is_seen_and_fine_windows_show_other_tissue(monkeypatch):
    case = sap.make_phantom(30_001, lesions=False)
    spacings = {0: set(), 1: set()}
    real = scenes._window_near

    def noted(pet, inside, size, spacing_mm, rng):
        noted.spacing_mm = spacing_mm
        return real(pet, inside, size, spacing_mm, rng)

    monkeypatch.setattr(scenes, "_window_near", noted)
    for seed in range(60):
        window = window_of_anything(case, 32, 4.0, np.random.default_rng(seed))
        assert not window.given[2].any()
        spacings[int(window.targets[0, 0])].add(noted.spacing_mm)
    assert min(spacings[0]) >= 3.0 > min(spacings[1])  # mm; organs as ever, tissue closer too


def test_a_bank_without_lesions_draws_patients_without_them(tmp_path):
    data = DataConfig(hq=1, windows_per_case=2, targets=None, first_seed=30_001, lesions=False)
    bank = WindowBank(data, 32, 4.0, tmp_path)
    healthy = sap.make_phantom(30_001, lesions=False)
    again = window_of_anything(healthy, 32, 4.0, np.random.default_rng([1, 30_001, 0]))  # the stream of its cases
    assert np.array_equal(bank[0]["suv"].numpy(), again.suv)


def test_scenes_of_shapes_have_targets_of_their_own():
    for seed in range(5):
        window = window_of_shapes(32, 8.0, np.random.default_rng(seed))
        assert np.isfinite(window.suv).all() and window.suv.min() >= 0
        assert len(window.targets) and (np.bincount(window.given.ravel())[window.targets[:, 1]] >= MIN_VOXELS).all()


def test_a_scene_in_which_no_shape_can_be_seen_is_drawn_again(monkeypatch):
    whole, calls = scenes._shape, []

    def outside_at_first(positions, rng):
        calls.append(1)
        return whole(positions, rng) & (len(calls) > 9)  # more shapes than the first scene has

    monkeypatch.setattr(scenes, "_shape", outside_at_first)
    assert len(window_of_shapes(32, 8.0, np.random.default_rng(0)).targets) >= 1
    assert len(calls) > 9


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


def test_augmentation_moves_image_and_labels_together():
    rng = np.random.default_rng(0)
    suv = np.zeros((12, 12, 12), np.float32)
    suv[1:4, 7:10, 2:9] = 6.0
    label = (suv > 0)[None].astype(np.uint8)
    moved = 0
    for _ in range(10):
        new_suv, new_label = augment(suv, label, (0.5, 0.5, 0.5), rng)
        assert np.array_equal(new_suv > 2.0, new_label[0] == 1)
        moved += not np.array_equal(new_label, label)
    assert moved >= 5


def test_a_window_is_cut_once_and_read_from_disk_ever_after(tmp_path, monkeypatch):
    data = DataConfig(hq=1, windows_per_case=2, first_seed=30_000)
    bank = WindowBank(data, 16, 16.0, tmp_path)
    cut = [bank[index] for index in range(2)]
    monkeypatch.setattr("seganypet.training.samples.make_window", None)  # cutting again would raise
    for index, window in enumerate(cut):
        again = WindowBank(data, 16, 16.0, tmp_path)[index]
        assert all(torch.equal(window[name], again[name]) for name in window)


def test_a_killed_run_cuts_what_is_missing_and_other_data_settings_get_their_own(tmp_path):
    data = DataConfig(hq=1, windows_per_case=2, first_seed=30_000)
    WindowBank(data, 16, 16.0, tmp_path).fill(1)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    next(iter(tmp_path.glob("*.pt"))).unlink()  # as if the run had been killed before the second window
    WindowBank(data, 16, 16.0, tmp_path).fill(1)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.pt")}
    assert set(after) == set(before) and sum(after[name] == before[name] for name in before) == 1
    WindowBank(DataConfig(hq=1, windows_per_case=2, first_seed=30_001), 16, 16.0, tmp_path).fill(1)
    assert len(list(tmp_path.glob("*.pt"))) == 4


# ---- a window is known by what it was cut from

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


def windows_of(folder, cache):
    """All windows, and how many of them were cut rather than read."""
    before = len(list(cache.glob("*.pt")))
    bank = WindowBank(DataConfig(cohort=str(folder / "cohort.csv"), windows_per_case=2), 32, 6.0, cache)
    windows = [bank[index] for index in range(len(bank))]
    return windows, len(list(cache.glob("*.pt"))) - before


def test_corrected_labels_and_a_rewritten_scan_are_cut_again(cohort, tmp_path):
    cache = tmp_path / "windows"
    first, cut = windows_of(cohort, cache)
    assert cut == 2
    pet = sap.load_volume(cohort / "pet.nii.gz", unit="SUVbw")
    labels = load_labels(cohort / "organs.nii.gz", like=pet)
    labels[:30] = 0  # half of the ball
    save_mask(cohort / "organs.nii.gz", labels, pet)
    corrected, cut = windows_of(cohort, cache)
    assert cut == 2
    assert all((new["given"] > 0).sum() < (old["given"] > 0).sum() for new, old in zip(corrected, first, strict=True))
    save_volume(cohort / "pet.nii.gz", Volume(2 * pet.data, pet.affine, "SUVbw"))
    hotter, cut = windows_of(cohort, cache)
    assert cut == 2 and hotter[0]["suv"].max().item() == pytest.approx(2 * first[0]["suv"].max().item(), rel=0.01)


def test_the_unit_of_a_scan_and_the_convention_of_its_labels_belong_to_a_window(cohort, tmp_path):
    cache = tmp_path / "windows"
    for convention, unit in (("seganypet", "SUVbw"), ("autopet-organ", "SUVbw"), ("seganypet", "Bq/mL")):
        write_table(cohort, convention, unit=unit)
        assert windows_of(cohort, cache)[1] == 2


def test_a_moved_folder_and_another_quality_are_read_from_disk(cohort, tmp_path):
    cache = tmp_path / "windows"
    first, _ = windows_of(cohort, cache)
    moved = cohort.rename(tmp_path / "elsewhere")
    write_table(moved, "seganypet", quality="LQ")
    again, cut = windows_of(moved, cache)
    assert cut == 0
    for old, new in zip(first, again, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: bytes(len(content)),
     lambda content: b"<html>" * 100],
    ids=["half a file", "empty", "zeros", "html"],
)  # fmt: skip
def test_a_damaged_window_is_cut_again(cohort, tmp_path, damage):
    cache = tmp_path / "windows"
    first, _ = windows_of(cohort, cache)
    for path in cache.glob("*.pt"):
        path.write_bytes(damage(path.read_bytes()))
    again, _ = windows_of(cohort, cache)
    for old, new in zip(first, again, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    bank = WindowBank(DataConfig(cohort=str(cohort / "cohort.csv"), windows_per_case=2), 32, 6.0, cache)
    assert torch.equal(torch.load(cache / bank.sources[0].file_name, weights_only=True)["suv"], first[0]["suv"])
