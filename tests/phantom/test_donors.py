"""Phantoms borrow the organs of label maps: the shape is the donor's, place and size stay the patient's."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff

from seganypet.cohort.donors import donors_content, read_donors
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS
from seganypet.phantom import make_phantom
from seganypet.phantom.donors import Donor
from seganypet.training.config import DataConfig
from seganypet.training.scans import make_scan, scan_sources

NUMBERS = {"liver": (5,), "spleen": (1,), "kidney_left": (3,), "kidney_right": (2,)}
SPACING = np.array((2.5, 2.0, 3.0))


def body() -> np.ndarray:
    """A body in RAS: a spleen like a rod from foot to head, a kidney like a plate, a liver that leaves the map."""
    labels = np.zeros((120, 90, 90), np.int16)
    labels[20:32, 40:54, 36:64] = 1  # 30 x 28 x 84 mm
    labels[40:44, 30:70, 30:60] = 3  # 10 x 80 x 90 mm
    labels[80:, 20:70, 20:60] = 5
    return labels


def donor(codes: str = "RAS") -> Donor:
    """The body, its axes in another order and direction."""
    labels, affine = body(), np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-150, -90, -300)
    turn = nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = apply_orientation(labels, turn)
    return Donor.from_labels(turned, affine @ inv_ornt_aff(turn, labels.shape), NUMBERS, "somebody")


def extent_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Root of the variance along right, front and head, mm."""
    return (np.argwhere(mask) @ affine[:3, :3].T).std(0)


@pytest.fixture(scope="module")
def lent():
    """The first phantoms that borrow spleen and left kidney, each with the one that would have been painted."""
    found = {}
    for seed in range(702, 720):
        case = make_phantom(seed, lesions=False, donors=[donor()])
        for organ in set(case.pet.metadata["lent"]) - set(found):
            found[organ] = (case, make_phantom(seed, lesions=False))
        if set(found) == {"spleen", "kidney_left"}:
            return found
    raise AssertionError(f"of 18 phantoms none borrowed {({'spleen', 'kidney_left'}) - set(found)}")


def test_an_organ_has_the_donors_shape_at_its_own_place_and_size(lent):
    for organ, longest in (("spleen", 2), ("kidney_left", None)):
        case, painted = lent[organ]
        borrowed, own = (one.organs == ORGANS.index(organ) + 1 for one in (case, painted))
        drawn_ml = case.pet.metadata["organ_volumes_drawn_ml"][organ]  # neighbours may cut it, or it them
        assert borrowed.sum() * case.pet.voxel_volume_ml == pytest.approx(drawn_ml, rel=0.4)
        moved_mm = (np.argwhere(borrowed).mean(0) - np.argwhere(own).mean(0)) * case.pet.spacing
        assert np.abs(moved_mm).max() < 20
        right, front, head = extent_mm(borrowed, case.pet.affine)
        if longest is None:
            assert right < 0.4 * min(front, head), "a plate, thin from left to right"
        else:
            assert head > 1.6 * max(right, front), "a rod from foot to head"
        assert painted.pet.metadata.get("lent") is None


def test_what_nobody_lends_stays_as_painted(lent):
    case, painted = lent["spleen"]
    for organ in ("heart", "liver", "lung_upper_lobe_right"):
        label = ORGANS.index(organ) + 1
        same = (case.organs == label) & (painted.organs == label)
        assert same.sum() > 0.9 * (painted.organs == label).sum(), organ
    assert case.pet.metadata["suv_drawn"] == painted.pet.metadata["suv_drawn"]


@pytest.mark.parametrize("codes", ["LPS", "SAR", "ILP"])
def test_the_order_of_a_maps_axes_does_not_matter(codes):
    ours, theirs = donor(), donor(codes)
    assert set(ours.shapes) == set(theirs.shapes)
    for organ, shape in ours.shapes.items():
        np.testing.assert_allclose(shape.level_mm, theirs.shapes[organ].level_mm, atol=1e-4)
        np.testing.assert_allclose(shape.spacing_mm, theirs.shapes[organ].spacing_mm)


def test_an_organ_that_the_map_cuts_is_not_lent_and_that_is_said():
    with pytest.warns(UserWarning, match="lends no kidney_right, liver: stated, but not in the label map, or cut"):
        assert set(donor().shapes) == {"spleen", "kidney_left"}


def test_a_tilted_map_and_one_without_organs_are_refused():
    a = np.radians(30)
    tilted = np.eye(4)
    tilted[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    with pytest.raises(SegAnyPETError, match="tilted by more than 20 degrees"):
        Donor.from_labels(body(), tilted, NUMBERS, "tilted")
    with pytest.raises(SegAnyPETError, match="none of liver, spleen.* lies whole"):
        Donor.from_labels(body(), np.eye(4), {"liver": (5,)}, "cut")


def write_table(folder: Path, rows: list[dict], columns=("labels", "organ_labels")) -> Path:
    nib.save(nib.Nifti1Image(body().astype(np.uint8), np.diag([*SPACING, 1.0])), folder / "body.nii.gz")
    with open(folder / "donors.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "donors.csv"


def test_a_table_names_bodies_and_the_numbers_of_their_organs(tmp_path):
    table = write_table(tmp_path, [{"labels": "body.nii.gz", "organ_labels": "spleen=1; kidney_left=3"}])
    (read,) = read_donors(table)
    assert read.name == "body.nii.gz" and read.shapes["spleen"].volume_ml == pytest.approx(12 * 14 * 28 * 15 / 1000)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([{"labels": "nobody.nii.gz", "organ_labels": "spleen=1"}], ("labels", "organ_labels"), "line 2.*is no file"),
        ([{"labels": "body.nii.gz", "organ_labels": "spleen"}], ("labels", "organ_labels"), "line 2.*expected names"),
        ([{"labels": "body.nii.gz", "organ_labels": "spleen=1; kidny_left=3"}], ("labels", "organ_labels"),
         "line 2: .'kidny_left'. are no organs"),
        ([], ("labels", "organ_labels"), "no donor"),
        ([], ("pet", "patient"), "columns pet, patient; expected labels and organ_labels"),
    ],
)
def test_a_table_that_cannot_be_understood_says_where(tmp_path, rows, columns, said):
    with pytest.raises(SegAnyPETError, match=said):
        read_donors(write_table(tmp_path, rows, columns))


def test_organs_that_are_separated_by_commas_are_not_lost_in_silence(tmp_path):
    table = write_table(tmp_path, [])
    table.write_text("labels,organ_labels\nbody.nii.gz,spleen=1,kidney_left=3\n", encoding="utf-8")
    with pytest.raises(SegAnyPETError, match="line 2: more cells than columns; separate organs by semicolons"):
        read_donors(table)


def test_training_draws_its_phantoms_with_them_and_anew_when_a_body_changes(tmp_path):
    table = write_table(tmp_path, [{"labels": "body.nii.gz", "organ_labels": "spleen=1; kidney_left=3"}])
    data = DataConfig(hq=4, targets=("spleen",), first_seed=700)
    with_donors = DataConfig(hq=4, targets=("spleen",), first_seed=700, donors=str(table))
    before = list(scan_sources(with_donors))
    assert not {one.file_name for one in before} & {one.file_name for one in scan_sources(data)}
    changed = [
        not np.array_equal(make_scan(one)["given"].numpy(), make_scan(other)["given"].numpy())
        for one, other in zip(before, scan_sources(data), strict=True)
    ]
    assert 1 <= sum(changed) < 4, "half of what donors have is lent"
    content = donors_content(table)
    labels = body()
    labels[20:32, 40:54, 60:64] = 0
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), np.diag([*SPACING, 1.0])), tmp_path / "body.nii.gz")
    assert donors_content(table) != content
    assert not {one.file_name for one in before} & {one.file_name for one in scan_sources(with_donors)}
