"""Organs that nobody clicked: found on a patient whom no network learned from, whichever way the file lies."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import oblique

import seganypet as sap
from seganypet.errors import SegAnyPETError, UnitError
from seganypet.metrics import dice
from seganypet.organs import ORGANS, SEEN_ORGANS
from seganypet.pet.grids import nearest_labels
from seganypet.pet.volume import Volume
from seganypet.prompting.proposal import SIDES, Proposal


@pytest.fixture(scope="module")
def scan() -> tuple[Volume, np.ndarray]:
    """A patient who was never trained on, on an oblique, left-handed grid of 6 x 5 x 5 mm, and the true organs."""
    case = sap.make_phantom(715, lesions=False)
    affine = oblique((6.0, 5.0, 5.0), left_handed=True)
    shape = (90, 100, 215)
    middle = case.pet.to_mm((np.array(case.pet.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    pet = sap.resample_to(case.pet, Volume(np.zeros(shape, np.float32), affine, "SUVbw"))
    return pet, nearest_labels(case.organs, case.pet, pet)


@pytest.fixture(scope="module")
def proposal(scan) -> Proposal:
    return sap.propose(scan[0])


def middle_mm(volume: Volume, mask: np.ndarray) -> np.ndarray:
    return volume.to_mm(np.argwhere(mask).mean(0))


def test_the_organs_of_an_oblique_scan_are_found_where_they_are(scan, proposal):
    pet, truth = scan
    found = {name: dice(mask, truth == ORGANS.index(name) + 1) for name, mask in proposal.masks.items()}
    assert {*SEEN_ORGANS} <= {*found}
    assert np.mean([found[name] for name in SEEN_ORGANS]) > 0.75
    assert min(found[name] for name in SEEN_ORGANS) > 0.6


def test_labels_are_disjoint_named_and_on_the_scans_grid(scan, proposal):
    pet, _ = scan
    assert proposal.labels.shape == pet.shape and proposal.labels.dtype == np.uint8
    assert {*np.unique(proposal.labels)} - {0} == {*proposal.names}
    assert all(ORGANS[label - 1] == name for label, name in proposal.names.items())
    assert sum(mask.sum() for mask in proposal.masks.values()) == (proposal.labels > 0).sum()


def test_each_organ_is_in_the_proposal_or_said_not_to_be_in_view(proposal):
    assert sorted([*proposal.names.values(), *proposal.not_in_view]) == sorted(ORGANS)
    assert {*proposal.confidence} == {*proposal.names.values()}
    assert all(0 <= value <= 1 for value in proposal.confidence.values())
    assert re.fullmatch("proposed by locator [0-9a-f]{8} and tiny [0-9a-f]{8}", proposal.proposed_by)


def test_what_lies_outside_the_field_of_view_is_not_proposed(scan):
    pet, truth = scan
    pelvis = slice(0, int(np.argwhere(truth == 1)[:, 2].min()) - 12)  # ends well below the liver
    affine = pet.affine.copy()
    part = Volume(pet.data[:, :, pelvis], affine, "SUVbw")
    proposal = sap.propose(part)
    assert {"liver", "spleen", "heart", "lung_upper_lobe_left", "lung_upper_lobe_right"} <= {*proposal.not_in_view}
    assert not np.isin(proposal.labels, (1, 4, 5)).any()


def test_nothing_lies_on_the_wrong_side_even_of_a_scan_that_was_mirrored_by_mistake(scan, proposal):
    pet, _ = scan
    mirrored = replace(pet, data=pet.data[::-1], header=None)
    for one in (proposal, sap.propose(mirrored, organs=["liver", "spleen", "kidney_left", "lung_upper_lobe_right"])):
        body_mm = middle_mm(one.volume, one.volume.data > 0.3)
        for name in {*one.names.values()} & {*SIDES}:
            assert SIDES[name] * (middle_mm(one.volume, one.masks[name]) - body_mm)[0] > 0, name


def test_asked_for_some_organs_only_these_come(scan):
    proposal = sap.propose(scan[0], organs=["spleen", "aorta"])
    assert {*proposal.names.values()} == {"spleen", "aorta"} and not proposal.not_in_view


def test_an_empty_scan_has_no_organs():
    proposal = sap.propose(Volume(np.zeros((9, 40, 30)), oblique((9.0, 4.0, 5.0)), "SUVbw"))
    assert proposal.not_in_view == ORGANS and not proposal.labels.any() and not proposal.masks


def test_a_proposal_is_corrected_like_any_mask(scan, proposal):
    session = sap.Session(sap.load_model("tiny"), scan[0])
    session.select("spleen")
    mask = session.start_from(proposal.masks["spleen"])
    assert np.array_equal(mask, proposal.masks["spleen"])
    inside = tuple(np.argwhere(mask)[len(np.argwhere(mask)) // 2])
    assert not session.click(ijk=inside, foreground=False)[inside]


@pytest.mark.parametrize("unit", ["Bq/mL", "HU"])
def test_other_units_than_suv_are_refused(unit):
    with pytest.raises(UnitError, match=f"is in {unit}, but organs are found by their uptake in SUVbw"):
        sap.propose(Volume(np.ones((8, 8, 8)), np.eye(4), unit))


def test_unknown_organs_and_networks_without_prompts_are_refused():
    volume = Volume(np.ones((8, 8, 8)), np.eye(4), "SUVbw")
    with pytest.raises(SegAnyPETError, match="'pancreas' unknown; expected some of liver, "):
        sap.propose(volume, organs=["liver", "pancreas"])
    with pytest.raises(SegAnyPETError, match=r"needs a volume, such as load_volume returns; got ndarray"):
        sap.propose(volume.data)
    with pytest.raises(SegAnyPETError, match=r"object cannot be prompted in 3D; expected a network such as"):
        sap.propose(volume, model=object())
