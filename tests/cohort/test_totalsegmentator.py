import inspect
import sys
import types
import warnings

import nibabel as nib
import numpy as np
import pytest
from conftest import oblique

from seganypet.cohort import totalsegmentator
from seganypet.cohort.labels import organ_targets
from seganypet.cohort.totalsegmentator import TOTAL_V1, TOTAL_V2, read_totalsegmentator, run_totalsegmentator
from seganypet.errors import GeometryError, SegAnyPETError, UnitError, VolumeError
from seganypet.organs import ORGANS
from seganypet.pet.registration import apply_transform
from seganypet.pet.resampling import resample_to
from seganypet.pet.volume import Volume

# Blocks (i, j, k) of a CT, by organ.
BLOCKS = {
    "liver": (slice(4, 14), slice(5, 15), slice(6, 12)),
    "kidney_left": (slice(20, 26), slice(5, 11), slice(6, 12)),
    "heart": (slice(4, 12), slice(18, 24), slice(2, 8)),
    "aorta": (slice(12, 14), slice(18, 24), slice(2, 8)),  # touches the heart
}


@pytest.fixture
def ct() -> Volume:
    affine = oblique(spacing=(2.0, 3.0, 4.0), left_handed=True)
    return Volume(np.random.default_rng(0).normal(40, 10, (30, 28, 16)), affine, "HU", source="ct.nii.gz")


def drawn(ids: dict[str, int], shape: tuple[int, int, int] = (30, 28, 16)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    for organ, box in BLOCKS.items():
        if organ in ids:
            labels[box] = ids[organ]
    labels[0, 0, 0] = 117  # costal cartilages: no organ of ours
    return labels


def label_image(labels: np.ndarray, affine: np.ndarray, names: dict[str, int] | None) -> nib.Nifti1Image:
    """A label map with the names in a header extension, as totalsegmentator/nifti_ext_header.py writes them."""
    image = nib.Nifti1Image(labels, affine)
    if names:
        table = "".join(
            f'<Label Key="{label}" Red="1.0" Green="0.0" Blue="0.5" Alpha="1"><![CDATA[{name}]]></Label>\n'
            for name, label in names.items()
        )
        text = (
            '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension>  <Date><![CDATA[2013-07-14T05:45:09]]></Date>   '
            f'<VolumeInformation Index="0">   <LabelTable>\n{table}\n  </LabelTable>  <StudyMetaDataLinkSet>  '
            "</StudyMetaDataLinkSet>  <VolumeType><![CDATA[Label]]></VolumeType>   </VolumeInformation>"
            "</CaretExtension>\n              "
        )
        image.header.extensions.append(nib.nifti1.Nifti1Extension(0, text.encode()))
    return image


def expected(shape=(30, 28, 16)) -> np.ndarray:
    labels = np.zeros(shape, np.int16)
    for organ, box in BLOCKS.items():
        labels[box] = ORGANS.index(organ) + 1
    return labels


def test_every_structure_has_its_number_of_task_total():
    assert set(TOTAL_V2) == {*ORGANS, "brain", "urinary_bladder"} and len(set(TOTAL_V2.values())) == 14
    assert (TOTAL_V2["liver"], TOTAL_V2["heart"], TOTAL_V2["aorta"], TOTAL_V2["prostate"]) == (5, 51, 52, 22)
    assert (TOTAL_V2["brain"], TOTAL_V2["urinary_bladder"]) == (90, 21)


def test_other_structures_can_be_asked_for(ct, tmp_path):
    v2 = {"urinary_bladder": 21, "heart": 51, "esophagus": 15}
    labels = np.zeros(ct.shape, np.uint8)
    labels[BLOCKS["liver"]], labels[BLOCKS["heart"]] = 21, 51
    nib.save(label_image(labels, ct.affine, v2), tmp_path / "organs.nii.gz")
    found, names = read_totalsegmentator(tmp_path / "organs.nii.gz", ct, organs=("heart", "urinary_bladder"))
    assert names == {1: "heart", 2: "urinary_bladder"}
    assert (found[BLOCKS["liver"]] == 2).all() and (found[BLOCKS["heart"]] == 1).all()
    assert np.count_nonzero(found) == np.count_nonzero(labels)
    with pytest.raises(VolumeError, match="none of brain"):
        read_totalsegmentator(tmp_path / "organs.nii.gz", ct, organs=("brain",))


def test_one_file_with_names_is_read_by_its_names(ct, tmp_path):
    path = tmp_path / "organs.nii.gz"
    others = [number for number in range(1, 118) if number not in TOTAL_V2.values()]
    every = drawn(TOTAL_V2)
    every[29, 25, :], every[29, 26, :], every[29, 27, :] = np.reshape(others[:48], (3, 16))
    # 53 of 117 classes: a run for all. The other organs are not in view.
    nib.save(label_image(every, ct.affine, TOTAL_V2 | {f"class_{number}": number for number in others}), path)
    with warnings.catch_warnings(action="error"):
        labels, names = read_totalsegmentator(path, ct)
    assert labels.dtype == np.int16 and np.array_equal(labels, expected())
    assert names == dict(enumerate(ORGANS, 1))
    masks = dict(organ_targets(labels, names))
    assert masks["liver"].sum() == 600 and not masks["spleen"].any()


def test_names_in_the_header_come_before_numbers_as_of_version_1(ct, tmp_path):
    v1 = {"spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 5, "aorta": 7, "lung_lower_lobe_left": 14}
    nib.save(label_image(drawn(v1), ct.affine, v1), tmp_path / "v1.nii.gz")
    with pytest.warns(UserWarning, match="has no label for heart, prostate"):
        labels, names = read_totalsegmentator(tmp_path / "v1.nii.gz", ct)
    assert (labels[BLOCKS["aorta"]] == 6).all() and not labels[BLOCKS["heart"]].any()
    assert 4 not in names and names[6] == "aorta"


def test_one_file_without_names_is_taken_for_version_2_and_says_so(ct, tmp_path):
    nib.save(label_image(drawn(TOTAL_V2), ct.affine, None), tmp_path / "plain.nii.gz")
    with pytest.warns(UserWarning, match="does not name its labels; .* TotalSegmentator 2, task total"):
        labels, _ = read_totalsegmentator(tmp_path / "plain.nii.gz", ct)
    assert np.array_equal(labels, expected())


V1 = {"spleen": 1, "liver": 5, "aorta": 7, "lung_upper_lobe_right": 15, "heart_myocardium": 44, "heart_atrium_left": 45,
      "heart_ventricle_left": 46, "heart_atrium_right": 47, "heart_ventricle_right": 48}  # fmt: skip


def large(ids: dict[str, int]) -> np.ndarray:
    """A map of 1 mL voxels, in which each structure takes 400 mL."""
    labels = np.zeros((20, 20, 10 * len(ids)), np.uint8)
    for n, number in enumerate(ids.values()):
        labels[:, :, 10 * n : 10 * n + 1] = number
    return labels


def on_large_voxels(labels: np.ndarray, names: dict[str, int] | None, path) -> Volume:
    affine = np.diag([-10.0, 10.0, 10.0, 1.0])
    nib.save(label_image(labels, affine, names), path)
    return Volume(np.zeros(labels.shape), affine, "SUVbw")


@pytest.mark.parametrize(("ids", "version", "reason"), [
    ({name: TOTAL_V1[name] for name in ("spleen", "liver", "aorta", "lung_upper_lobe_right")}, 1,
     r"of version 2 they cannot be: label 7 has 400 mL, too much for the pancreas"),
    ({name: TOTAL_V2[name] for name in ("spleen", "liver", "aorta", "lung_lower_lobe_left")}, 2,
     r"of version 1 they cannot be: label 11 has 400 mL, too much for the adrenal gland"),
    ({"spleen": 1, "cartilages": 117, "liver": 5}, 2, "of version 1 they cannot be: it has a label 117"),
])  # fmt: skip
def test_the_version_of_a_map_without_names_is_judged_by_sizes_and_it_is_said(tmp_path, ids, version, reason):
    pet = on_large_voxels(large(ids), None, tmp_path / "plain.nii.gz")
    with pytest.warns(UserWarning, match=rf"those of TotalSegmentator {version}, task total, because {reason}"):
        labels, names = read_totalsegmentator(tmp_path / "plain.nii.gz", pet)
    found = {name: int((labels == number).sum()) for number, name in names.items()}
    assert found == {name: 400 for name in ids if name != "cartilages"}


def test_where_the_version_cannot_be_judged_only_what_both_agree_on_is_read(tmp_path):
    pet = on_large_voxels(large({"spleen": 1, "liver": 5}), None, tmp_path / "plain.nii.gz")
    with pytest.warns(UserWarning, match="may be those of TotalSegmentator 1 or 2.* give version=1 or version=2"):
        labels, names = read_totalsegmentator(tmp_path / "plain.nii.gz", pet)
    assert sorted(names.values()) == ["liver", "spleen"] and (labels > 0).sum() == 800
    unclear = large({"spleen": 1})
    unclear[:, :4, 5] = 13  # 80 mL: a part of a lobe, the middle one in version 2 and the upper left one in version 1
    pet = on_large_voxels(unclear, None, tmp_path / "plain.nii.gz")
    for version, lobe in ((1, "lung_upper_lobe_left"), (2, "lung_middle_lobe_right")):
        with pytest.warns(UserWarning):
            assert read_totalsegmentator(tmp_path / "plain.nii.gz", pet)[1] == {5: "spleen"}
            assert lobe in read_totalsegmentator(tmp_path / "plain.nii.gz", pet, version=version)[1].values()
    with pytest.raises(VolumeError, match="version=3; expected 1 or 2"):
        read_totalsegmentator(tmp_path / "plain.nii.gz", pet, version=3)


def test_a_map_of_another_task_fits_neither_version(tmp_path):
    pet = on_large_voxels(large({"a": 9, "b": 10}), None, tmp_path / "plain.nii.gz")
    with pytest.raises(VolumeError, match="neither those of TotalSegmentator 1 nor 2.*version 1: .*; version 2: "):
        read_totalsegmentator(tmp_path / "plain.nii.gz", pet)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_heart_in_five_parts_is_put_together_and_one_that_lacks_a_part_is_not(tmp_path, as_folder):
    path = tmp_path / ("organs" if as_folder else "organs.nii.gz")
    labels = large(V1)
    if as_folder:
        path.mkdir()
        for name, number in V1.items():
            pet = on_large_voxels((labels == number).astype(np.uint8), None, path / f"{name}.nii.gz")
    else:
        pet = on_large_voxels(labels, V1, path)
    with pytest.warns(UserWarning, match="has no label for"):
        found, names = read_totalsegmentator(path, pet)
    assert names[ORGANS.index("heart") + 1] == "heart"
    assert np.array_equal(found == ORGANS.index("heart") + 1, (labels >= 44) & (labels <= 48))
    if as_folder:
        (path / "heart_atrium_left.nii.gz").unlink()
        with pytest.warns(UserWarning, match="no label for .*heart"):
            assert "heart" not in read_totalsegmentator(path, pet)[1].values()


@pytest.mark.parametrize("subset", [("spleen",), ("spleen", "liver"), ("heart", "aorta", "lung_lower_lobe_left")])
@pytest.mark.parametrize("named", ["all", "ours"])
def test_a_subset_whose_header_names_everything_speaks_of_the_subset_only(tmp_path, subset, named):
    others = {f"class_{number}": number for number in range(1, 118) if number not in TOTAL_V2.values()}
    names = TOTAL_V2 | (others if named == "all" else {})
    pet = on_large_voxels(large({name: TOTAL_V2[name] for name in subset}), names, tmp_path / "organs.nii.gz")
    with pytest.warns(UserWarning, match=rf"names but no voxel for .*prostate.*Only {len(subset)} of .*--roi_subset"):
        labels, found = read_totalsegmentator(tmp_path / "organs.nii.gz", pet)
    assert {*found.values()} == {*subset} and (labels > 0).sum() == 400 * len(subset)


def test_a_subset_without_a_voxel_says_nothing_of_any_organ(tmp_path):
    pet = on_large_voxels(np.zeros((5, 6, 7), np.uint8), TOTAL_V2, tmp_path / "organs.nii.gz")
    with pytest.warns(UserWarning, match="Only 0 of its 14 classes"):
        labels, names = read_totalsegmentator(tmp_path / "organs.nii.gz", pet)
    assert names == {} and not labels.any()


def test_the_version_of_a_real_map_is_judged_right(tmp_path, real_data):
    example = real_data / "anatomy" / "totalsegmentator_example_labels.nii.gz"
    if not example.is_file():
        pytest.skip(f"no {example}")
    image = nib.load(example)
    names = totalsegmentator._numbers_in_header(image.header)
    plain = nib.Nifti1Image(np.asarray(image.dataobj).astype(np.uint8), image.affine)
    nib.save(plain, tmp_path / "plain.nii.gz")
    pet = Volume(np.zeros(image.shape), image.affine, "SUVbw")
    with pytest.warns(UserWarning, match="taken for those of TotalSegmentator 2"):
        labels, found = read_totalsegmentator(tmp_path / "plain.nii.gz", pet)
    assert (labels == 1).sum() == (np.asarray(image.dataobj) == 5).sum() and "liver" in found.values()
    assert not names or names["liver"] == 5


def test_another_programs_header_extension_is_passed_over(ct, tmp_path):
    image = label_image(drawn(TOTAL_V2), ct.affine, None)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made by hand <b>"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, b"<html></html>"))
    nib.save(image, tmp_path / "plain.nii.gz")
    with pytest.warns(UserWarning, match="does not name its labels"):
        read_totalsegmentator(tmp_path / "plain.nii.gz", ct)


def test_a_folder_of_one_file_per_organ_names_what_is_absent(ct, tmp_path):
    for organ, box in BLOCKS.items():
        mask = np.zeros(ct.shape, np.uint8)
        mask[box] = 1
        nib.save(nib.Nifti1Image(mask, ct.affine), tmp_path / f"{organ}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(ct.shape, np.uint8), ct.affine), tmp_path / "spleen.nii.gz")  # not found
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.warns(UserWarning, match="has no label for kidney_right, prostate, lung_lower_lobe_left"):
        labels, names = read_totalsegmentator(tmp_path, ct)
    assert np.array_equal(labels, expected())
    assert sorted(names.values()) == ["aorta", "heart", "kidney_left", "liver", "spleen"]


def test_labels_come_to_a_coarser_oblique_pet_where_most_of_a_voxel_is_the_organ(ct, tmp_path):
    # Each PET voxel holds 2 x 2 x 2 voxels of the CT; blocks of even bounds fill them wholly or not at all.
    even = {"liver": (slice(4, 14), slice(6, 16), slice(6, 12)), "heart": (slice(14, 20), slice(6, 16), slice(6, 12))}
    fine = np.zeros(ct.shape, np.uint8)
    for organ, box in even.items():
        fine[box] = TOTAL_V2[organ]
    nib.save(label_image(fine, ct.affine, TOTAL_V2), tmp_path / "organs.nii.gz")
    affine = ct.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = ct.to_mm((0.5, 0.5, 0.5))
    pet = Volume(np.zeros((15, 14, 8)), affine, "SUVbw", source="pet.nii.gz")
    labels, _ = read_totalsegmentator(tmp_path / "organs.nii.gz", pet)
    coarse = np.zeros(pet.shape, np.int16)
    coarse[2:7, 3:8, 3:6], coarse[7:10, 3:8, 3:6] = 1, 4
    inner = np.abs(labels - coarse)
    assert not inner[3:6, 4:7, 4].any() and not inner[0].any() and not inner[12:].any()
    # Smoothing before sampling rounds corners and edges of a block, but keeps its faces.
    assert (labels[2:10, 5, 4] == coarse[2:10, 5, 4]).all() and labels[1, 5, 4] == labels[10, 5, 4] == 0


def test_cropped_resampling_agrees_with_resampling_the_whole_scan(ct, tmp_path):
    nib.save(label_image(drawn(TOTAL_V2), ct.affine, TOTAL_V2), tmp_path / "organs.nii.gz")
    affine = oblique(spacing=(4.07, 4.07, 3.0))
    affine[:3, 3] = ct.to_mm((31, 2, 1))
    affine[:3, 3] -= 5
    pet = Volume(np.zeros((22, 24, 30)), affine, "SUVbw")
    labels, names = read_totalsegmentator(tmp_path / "organs.nii.gz", pet)
    shares = np.zeros((13, *pet.shape), np.float32)
    for label, organ in names.items():
        whole = Volume(drawn(TOTAL_V2) == TOTAL_V2[organ], ct.affine, "SUVbw")
        shares[label] = resample_to(whole, pet).data
    shares[0] = 1 - shares.sum(axis=0)
    clear = np.abs(np.sort(shares, axis=0)[-1] - np.sort(shares, axis=0)[-2]) > 0.01
    assert (labels > 0).sum() > 100
    assert np.array_equal(labels[clear], np.argmax(shares, axis=0)[clear])


def test_labels_of_a_ct_that_was_moved_since_are_read_by_moving_the_pet_instead(ct, tmp_path):
    nib.save(label_image(drawn(TOTAL_V2), ct.affine, TOTAL_V2), tmp_path / "organs.nii.gz")
    transform = np.eye(4)
    transform[:3, 3] = ct.affine[:3, 0]  # the CT shows one voxel on what the PET shows here
    pet = Volume(np.ones(ct.shape), ct.affine, "SUVbw")
    labels, _ = read_totalsegmentator(tmp_path / "organs.nii.gz", apply_transform(pet, np.linalg.inv(transform)))
    assert np.array_equal(labels[:-1], expected()[1:])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(3, dtype=np.uint8)[None].repeat(3, 0), "labels up to 1 and no names .* give their folder"),
        (np.full((3, 3, 3), 200, np.uint8), "labels up to 200 and no names"),
        (np.full((3, 3, 3), 0.5, np.float32), "expected a label map with integers"),
    ],
)
def test_files_that_are_not_its_output_are_refused(ct, tmp_path, labels, message):
    nib.save(nib.Nifti1Image(labels, ct.affine), tmp_path / "file.nii.gz")
    with pytest.raises(VolumeError, match=message):
        read_totalsegmentator(tmp_path / "file.nii.gz", ct)


def test_folders_and_paths_without_its_output_are_refused(ct, tmp_path):
    with pytest.raises(VolumeError, match="does not exist"):
        read_totalsegmentator(tmp_path / "nothing.nii.gz", ct)
    (tmp_path / "femur_left.nii.gz").write_bytes(b"")
    with pytest.raises(VolumeError, match="no liver.nii.gz nor a file of any other organ, only femur_left.nii.gz"):
        read_totalsegmentator(tmp_path, ct)
    (tmp_path / "liver.nii.gz").write_bytes(b"not a NIfTI")
    with pytest.raises(VolumeError, match="liver.nii.gz: not a readable NIfTI file"):
        read_totalsegmentator(tmp_path, ct)
    nib.save(nib.Nifti1Image(drawn(TOTAL_V2), ct.affine), tmp_path / "liver.nii.gz")
    with pytest.raises(VolumeError, match="labels up to 117; expected 0 and 1"):
        read_totalsegmentator(tmp_path, ct)
    nib.save(label_image(drawn(TOTAL_V2), ct.affine, {"lung_vessels": 1}), tmp_path / "vessels.nii.gz")
    with pytest.raises(VolumeError, match="names its labels lung_vessels, ...: none of liver"):
        read_totalsegmentator(tmp_path / "vessels.nii.gz", ct)


def test_organs_of_another_place_are_refused(ct, tmp_path):
    nib.save(label_image(drawn(TOTAL_V2), ct.affine, TOTAL_V2), tmp_path / "organs.nii.gz")
    far = np.eye(4)
    far[2, 3] = 5000.0
    with pytest.raises(GeometryError, match="no organ lies within"):
        read_totalsegmentator(tmp_path / "organs.nii.gz", apply_transform(ct, far))


# ---- the package itself, by a stand-in with its signature


@pytest.fixture
def stand_in(monkeypatch):
    """`totalsegmentator.python_api` with the arguments of release 2.18.0 that matter here; draws BLOCKS."""
    calls = []

    def totalsegmentator(
        input, output=None, ml=False, nr_thr_resamp=1, nr_thr_saving=6, fast=False, nora_tag="None", preview=False,
        task="total", roi_subset=None, statistics=False, radiomics=False, crop_path=None, body_seg=False,
        force_split=False, output_type="nifti", quiet=False, verbose=False, test=0, skip_saving=False, device="gpu",
    ):  # fmt: skip
        frame = inspect.currentframe()
        calls.append({name: frame.f_locals[name] for name in ("ml", "fast", "task", "device", "quiet", "output")})
        assert isinstance(input, nib.Nifti1Image)
        image = label_image(drawn(TOTAL_V2, input.shape), input.affine, TOTAL_V2)
        if output is not None:
            nib.save(image, output)
        return image

    package, module = types.ModuleType("totalsegmentator"), types.ModuleType("totalsegmentator.python_api")
    module.totalsegmentator, package.python_api, module.calls = totalsegmentator, module, calls
    monkeypatch.setitem(sys.modules, "totalsegmentator", package)
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", module)
    return module


def test_it_runs_on_a_ct_and_its_kept_file_reads_back(ct, tmp_path, stand_in):
    labels, names = run_totalsegmentator(ct, folder=tmp_path / "kept")
    assert np.array_equal(labels, expected()) and names == dict(enumerate(ORGANS, 1))
    (call,) = stand_in.calls
    assert call["ml"] and call["fast"] and call["task"] == "total" and call["device"] == "cpu"
    again, _ = read_totalsegmentator(call["output"], ct)
    assert call["output"].parent == tmp_path / "kept" and np.array_equal(again, labels)


def test_it_runs_on_a_ct_and_answers_on_a_pet(ct, stand_in):
    pet = Volume(np.zeros((20, 20, 16)), ct.affine, "SUVbw")
    labels, _ = run_totalsegmentator(ct, fast=False, like=pet)
    assert np.array_equal(labels, expected()[:20, :20]) and not stand_in.calls[0]["fast"]


@pytest.mark.parametrize("error", [ConnectionError("no route to host"), SystemExit(1), RuntimeError("no memory")])
def test_its_own_failures_say_what_to_do_instead(ct, stand_in, error):
    def fail(*args, **options):
        raise error

    stand_in.totalsegmentator = fail
    with pytest.raises(SegAnyPETError, match=rf"failed \({type(error).__name__}.*read_totalsegmentator\(path"):
        run_totalsegmentator(ct)
    stand_in.totalsegmentator = lambda *args, **options: None
    with pytest.raises(SegAnyPETError, match="returned a NoneType"):
        run_totalsegmentator(ct)


def test_without_the_package_the_error_says_how_to_install_it(ct, monkeypatch):
    monkeypatch.setitem(sys.modules, "totalsegmentator", None)
    with pytest.raises(SegAnyPETError, match=r"pip install 'seganypet\[totalsegmentator\]'"):
        run_totalsegmentator(ct)
    with pytest.raises(UnitError, match="expected a CT in HU"):
        run_totalsegmentator(Volume(ct.data, ct.affine, "SUVbw"))
