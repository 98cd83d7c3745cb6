"""Lesions under clicks: all at once, one by one and slice by slice, against numbers worked out by hand."""

import numpy as np
import pytest
from conftest import oblique
from evaluation_cases import SHAPE, CubeSession, SquareSession

from seganypet.errors import SegAnyPETError
from seganypet.metrics import lesion_scores
from seganypet.pet.volume import Volume
from seganypet.prompting.base import PromptSession
from seganypet.study.lesion_clicks import prompt_all_at_once, prompt_one_by_one
from seganypet.study.protocol import ClickProtocol

AFFINE = oblique(spacing=(4.0, 2.0, 3.0), left_handed=True)
VOXEL_ML = 0.024


class CubesByName(PromptSession):
    """Cubes of 5 x 5 x 5 voxels around the foreground clicks of an object, without those around background clicks."""

    def _predict(self, prompts, previous):
        return prompts

    def _mask_on_grid(self, prediction):
        mask = np.zeros(self.volume.shape, bool)
        for click in prediction:
            mask[tuple(slice(max(index - 2, 0), index + 3) for index in click.ijk)] = click.foreground
        return mask

    def _provenance(self):
        return {"name": "cubes"}


@pytest.fixture
def truth() -> np.ndarray:
    """Two lesions that one click each draws, 125 voxels each, and one of 10 x 5 x 5 that takes two."""
    lesions = np.zeros(SHAPE, bool)
    lesions[2:7, 2:7, 2:7] = lesions[15:20, 2:7, 2:7] = lesions[2:12, 14:19, 12:17] = True
    return lesions


@pytest.fixture
def volume() -> Volume:
    return Volume(np.full(SHAPE, 3.0, np.float32), AFFINE, "SUVbw")


def test_all_at_once_needs_a_click_for_each_lesion_and_more(volume, truth):
    rows = list(prompt_all_at_once(CubesByName(volume), truth, ClickProtocol(3)))
    assert [row["total_clicks"] for row in rows] == [1, 2, 3]
    assert {row["prompting"] for row in rows} == {"all at once"} and {row["lesion"] for row in rows} == {"all"}
    # The first click goes to that deep place which lies nearest to the centre of all: to an end of the large lesion,
    # so that 100 of the cube's 125 voxels are right.
    assert rows[0]["dsc"] == pytest.approx(2 * 100 / (125 + 500))
    assert rows[0]["lesions"] == 3 and rows[0]["fpv_ml"] == 0
    assert rows[0]["dsc"] < rows[1]["dsc"] < rows[2]["dsc"]


def test_one_by_one_gives_each_lesion_its_clicks_and_scores_the_union(volume, truth):
    session = CubesByName(volume)
    rows = list(prompt_one_by_one(session, truth, ClickProtocol(2)))
    single, whole = ([row for row in rows if (row["lesion"] == "all") == together] for together in (False, True))
    assert [(row["lesion"], row["click"]) for row in single] == [
        (f"lesion_0{number}", click) for number in (1, 2, 3) for click in (1, 2)
    ]
    large = single[0]
    assert large["volume_ml"] == pytest.approx(250 * VOXEL_ML) and large["suv_max"] == 3.0
    # A click in the middle draws 5 of its 10 layers; the second adds the other half or a part of it.
    assert large["dsc"] == pytest.approx(2 * 125 / (125 + 250)) and large["true_tlg"] == pytest.approx(18.0)
    assert [row["dsc"] for row in single[2:]] == [1, 1, 1, 1]
    # Lesions that are right need no second click.
    assert [row["total_clicks"] for row in whole] == [3, 4]
    assert whole[0]["dsc"] == pytest.approx(2 * 375 / (375 + 500)) and whole[0]["fnv_ml"] == 0 and whole[0]["f1"] == 1
    assert whole[1]["dsc"] > whole[0]["dsc"]
    assert set(session.objects) == {"lesion_01", "lesion_02", "lesion_03"}


def test_small_lesions_can_be_left_out_of_the_clicks_but_not_of_the_scores(volume, truth):
    rows = list(prompt_one_by_one(CubesByName(volume), truth, ClickProtocol(1), min_volume_ml=130 * VOXEL_ML))
    assert [row["lesion"] for row in rows] == ["lesion_01", "all"]
    assert rows[-1]["fnv_ml"] == pytest.approx(250 * VOXEL_ML) and rows[-1]["fnv_fraction"] == pytest.approx(0.5)
    assert rows[-1]["f1"] == pytest.approx(2 * 1 / (1 + 3)) and rows[-1]["lesions"] == 3


def test_a_slicewise_session_is_clicked_in_every_slice_that_holds_tumour(volume, truth):
    rows = list(prompt_all_at_once(SquareSession(volume), truth, ClickProtocol(2)))
    assert {row["prompting"] for row in rows} == {"per slice"}
    # Slices 2 to 6 hold two lesions, 12 to 16 one: ten slices, one click each.
    assert [row["total_clicks"] for row in rows] == [10, 20]
    assert rows[0]["dsc"] == pytest.approx(2 * 90 / (90 + 500))


def test_scores_tell_missed_from_invented_and_measure_burden(volume, truth):
    mask = np.zeros_like(truth)
    mask[2:7, 2:7, 2:5] = True  # part of one lesion
    mask[22:24, 20:22, 0:2] = True  # eight voxels of nothing
    scores = lesion_scores(mask, truth, volume.data, volume.voxel_volume_ml)
    assert scores["dsc"] == pytest.approx(2 * 75 / (83 + 500))
    assert scores["fpv_ml"] == pytest.approx(8 * VOXEL_ML) and scores["fnv_ml"] == pytest.approx(375 * VOXEL_ML)
    assert scores["fnv_fraction"] == pytest.approx(375 / 500) and scores["f1"] == pytest.approx(2 * 1 / (2 + 3))
    assert scores["mtv_ml"] == pytest.approx(83 * VOXEL_ML) and scores["true_mtv_ml"] == pytest.approx(500 * VOXEL_ML)
    assert scores["tlg"] == pytest.approx(3 * 83 * VOXEL_ML) and scores["true_tlg"] == pytest.approx(36.0)


def test_lesions_that_touch_by_an_edge_are_counted_as_one_and_by_a_corner_as_two(volume):
    by_edge, by_corner = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    by_edge[2:4, 2:4, 2:4] = by_edge[4:6, 4:6, 2:4] = True
    by_corner[2:4, 2:4, 2:4] = by_corner[4:6, 4:6, 4:6] = True
    assert lesion_scores(by_edge, by_edge, volume.data, volume.voxel_volume_ml)["lesions"] == 1
    assert lesion_scores(by_corner, by_corner, volume.data, volume.voxel_volume_ml)["lesions"] == 2
    # A person who clicks sees one thing in both.
    for lesions in (by_edge, by_corner):
        rows = list(prompt_one_by_one(CubesByName(volume), lesions, ClickProtocol(1)))
        assert [row["lesion"] for row in rows] == ["lesion_01", "all"]


def test_without_lesions_shares_are_undefined_and_all_that_is_found_is_false(volume):
    nothing, mask = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    mask[0:2, 0:2, 0:2] = True
    scores = lesion_scores(mask, nothing, volume.data, volume.voxel_volume_ml)
    # Were F1 0 here and undefined for an empty mask, the right answer would drop out of a mean, and the wrong one stay.
    assert np.isnan(scores["dsc"]) and np.isnan(scores["fnv_fraction"]) and np.isnan(scores["f1"])
    assert scores["fpv_ml"] == pytest.approx(8 * VOXEL_ML) and scores["fnv_ml"] == 0
    assert np.isnan(lesion_scores(nothing, nothing, volume.data, volume.voxel_volume_ml)["f1"])


def test_the_flattering_protocol_is_refused(volume, truth):
    with pytest.raises(SegAnyPETError, match="protocol='release'.*whole_volume"):
        next(prompt_all_at_once(CubesByName(volume), truth, ClickProtocol(1, protocol="release")))
    with pytest.raises(SegAnyPETError, match="protocol='release'"):
        next(prompt_one_by_one(CubesByName(volume), truth, ClickProtocol(1, protocol="release")))


def test_cubes_without_names_work_too(volume, truth):
    # `prompt_all_at_once` needs click, mask and volume of a session, no more.
    assert next(prompt_all_at_once(CubeSession(volume), truth, ClickProtocol(1)))["total_clicks"] == 1


def test_of_more_lesions_than_a_session_holds_the_largest_are_clicked():
    truth = np.zeros((64, 64, 16), bool)
    truth[::4, ::4, ::8] = True  # 512 lesions of a voxel,
    truth[60:62, 60, 0] = True  # one of which gets a second
    volume = Volume(np.full(truth.shape, 3.0, np.float32), AFFINE, "SUVbw")
    rows = list(prompt_one_by_one(CubesByName(volume), truth, ClickProtocol(1)))
    assert len(rows) == 255 + 1 and rows[0]["true_mtv_ml"] == pytest.approx(2 * VOXEL_ML)
    assert rows[-1]["total_clicks"] == 255 and rows[-1]["fnv_fraction"] > 0.4
