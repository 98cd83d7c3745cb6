"""An ambiguous first click has several readings; one is chosen as a step like any other; a correction settles it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ball_scene import away_mm, dice
from conftest import oblique
from threshold_network import ThresholdNetwork

from seganypet.errors import ClickError, JournalError
from seganypet.model.checkpoints import load_model
from seganypet.model.config import ModelConfig
from seganypet.model.hub import EDITIONS
from seganypet.model.sam2d import Sam2D
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom
from seganypet.prompting.prompts import Choice, Click, read_prompt, write_prompt
from seganypet.prompting.readings import distinct
from seganypet.prompting.session import Session
from seganypet.prompting.slicewise import SliceSession
from seganypet.prompting.thresholds import ThresholdSession

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
SHAPE, MIDDLE = (64, 60, 84), (32, 30, 42)
ELSEWHERE = (10, 10, 10)
RADII_MM, SUVS = (80.0, 55.0, 32.0), (2.0, 5.0, 11.0)  # each edge twice as hot inside, counted from -1


@pytest.fixture(scope="module")
def scene():
    """Three balls in each other, the smallest the hottest, and their masks from the whole to the spot."""
    data, distance = np.full(SHAPE, 0.5), away_mm(Volume(np.zeros(SHAPE), AFFINE, "SUVbw"), MIDDLE)
    data[away_mm(Volume(data, AFFINE, "SUVbw"), ELSEWHERE) <= 25] = 14.0
    for radius, suv in zip(RADII_MM, SUVS, strict=True):
        data[distance <= radius] = suv
    return Volume(data, AFFINE, "SUVbw", source="balls"), [distance <= radius for radius in RADII_MM]


class Nested(ThresholdNetwork):
    """Reads a first click as whole, part or spot; given a mask, it means the one that is most like it."""

    THRESHOLDS, IOU = (1.2, 3.5, 7.0), (0.5, 0.9, 0.7)

    def __init__(self):
        super().__init__()
        self.metadata = {"readings": True}

    def decode(self, embedding, points_ijk, labels, previous_logits, multimask=False):
        self.calls["decode"] += 1
        if self.fails:
            raise RuntimeError("out of memory")
        three = torch.from_numpy(np.array([
            [self.mask(*window, threshold) for threshold in self.THRESHOLDS]
            for window in zip(embedding[:, 0], points_ijk, labels, strict=True)
        ]))  # fmt: skip
        iou = torch.tensor(self.IOU).expand(len(three), -1)
        if multimask:
            return three, iou
        inside, before = (three > 0).flatten(2).float(), (previous_logits > 0).flatten(2).float()
        like = 2 * (inside * before).sum(-1) / (inside.sum(-1) + before.sum(-1)).clamp(min=1)  # (B, 3)
        best = like.argmax(1)
        return three[torch.arange(len(three)), best][:, None], iou[torch.arange(len(three)), best][:, None]


@pytest.fixture
def session(scene):
    return Session(Nested(), scene[0])


def test_before_any_prompt_there_is_no_reading(session):
    assert session.readings == () and session.chosen == 0


def test_of_masks_that_stand_out_alike_the_surest_comes_first_and_is_the_answer(session, scene):
    volume, (whole, part, spot) = scene
    mask = session.click(ijk=MIDDLE)
    readings = session.readings
    assert [reading.quality for reading in readings] == pytest.approx([0.9, 0.7, 0.5])
    np.testing.assert_array_equal(readings[0].mask, mask)
    for reading, truth in zip(readings, (part, spot, whole), strict=True):
        assert reading.mask.shape == volume.shape and reading.mask.dtype == bool and reading.mask[MIDDLE]
        assert dice(reading.mask, truth) > 0.85
        assert reading.volume_ml == pytest.approx(reading.mask.sum() * volume.voxel_volume_ml)


def test_what_stands_out_clearly_comes_before_what_is_predicted_a_little_better(scene):
    volume, (whole, part, _) = scene
    data = np.where(part, 3.0, volume.data)  # a part that hardly differs from the whole
    session = Session(Nested(), Volume(data, AFFINE, "SUVbw", source="a faint part"))
    session.model.THRESHOLDS, session.model.IOU = (1.2, 2.5, 8.0), (0.8, 0.9, 0.1)
    assert dice(session.click(ijk=MIDDLE), whole) > 0.85
    assert session.readings[0].quality == pytest.approx(0.8)


def test_another_reading_is_a_step_that_undo_and_redo_know(session):
    first = session.click(ijk=MIDDLE)
    readings = session.readings
    second = session.choose(1)
    np.testing.assert_array_equal(second, readings[1].mask)
    assert session.chosen == 1 and [reading.volume_ml for reading in session.readings] == [
        reading.volume_ml for reading in readings
    ]
    np.testing.assert_array_equal(session.choose(2), readings[2].mask)
    np.testing.assert_array_equal(session.undo(), second)
    assert session.chosen == 1
    np.testing.assert_array_equal(session.undo(), first)
    assert session.chosen == 0
    np.testing.assert_array_equal(session.redo(), second)
    np.testing.assert_array_equal(session.choose(0), first)
    assert session.clicks == (Click(MIDDLE),) and len(session.prompts) == 3


def test_choosing_what_is_there_already_is_no_step(session):
    session.click(ijk=MIDDLE)
    heard = []
    session.watchers.append(lambda: heard.append(session.chosen))
    session.choose(0)
    assert session.prompts == (Click(MIDDLE),)
    session.choose(np.int64(1))
    session.choose(1)
    assert len(session.prompts) == 2 and heard[-1] == 1


def test_later_clicks_go_on_from_the_reading_that_was_chosen(session, scene):
    _, (whole, part, spot) = scene
    session.click(ijk=MIDDLE)
    session.choose(1)
    beside = tuple(np.add(MIDDLE, (2, 0, 0)).tolist())
    assert dice(session.click(ijk=beside), spot) > 0.85
    assert len(session.readings) == 1 and session.chosen == 0
    np.testing.assert_array_equal(session.readings[0].mask, session.mask)
    session.undo()
    assert session.chosen == 1 and len(session.readings) == 3


def test_a_choice_is_repeated_by_a_journal(session, scene, tmp_path):
    session.click(ijk=MIDDLE)
    session.choose(2)
    session.select("other")
    session.click(ijk=ELSEWHERE)
    session.save_journal(tmp_path / "clicks.json")
    again = Session.replay(Nested(), scene[0], tmp_path / "clicks.json")
    assert again.prompts_of("object 1") == (Click(MIDDLE), Choice(MIDDLE, 2))
    for name in session.objects:
        np.testing.assert_array_equal(again.mask_of(name), session.mask_of(name))
    assert again.journal() == session.journal()


def test_a_journal_with_a_choice_that_makes_no_sense_is_refused(session, scene, tmp_path):
    path = tmp_path / "clicks.json"
    session.click(ijk=MIDDLE)
    session.choose(1)
    session.save_journal(path)
    recorded = json.loads(path.read_text())
    for change, message in (
        ({"reading": 7}, "cannot be repeated .*no reading 7"), ({"reading": "1"}, "prompt 2: .*no choice of a reading"),
        ({"reading": True}, "prompt 2: .*no choice"), ({"mm": [0, 0, 0]}, "prompt 2: .*contradict"),
    ):  # fmt: skip
        edited = json.loads(json.dumps(recorded))
        edited["prompts"][1] |= change
        path.write_text(json.dumps(edited))
        with pytest.raises(JournalError, match=message):
            Session.replay(Nested(), scene[0], path)


def test_a_choice_survives_json():
    choice = Choice(MIDDLE, 1)
    for affine in (None, AFFINE):
        assert read_prompt(json.loads(json.dumps(write_prompt(choice, affine))), affine) == choice
    assert choice.points == choice.marks == ()


@pytest.mark.parametrize(
    ("number", "message"),
    [(3, "no reading 3; there are 0 to 2"), (-1, "no reading -1"), (1.0, "whole number"), ("1", "whole number"),
     (True, "whole number"), (None, "whole number")],
)  # fmt: skip
def test_a_reading_that_is_not_there_is_refused_and_nothing_changes(session, number, message):
    before = session.click(ijk=MIDDLE)
    with pytest.raises(ClickError, match=message):
        session.choose(number)
    assert session.prompts == (Click(MIDDLE),)
    np.testing.assert_array_equal(session.mask, before)


def test_nothing_can_be_chosen_before_a_prompt_or_after_a_correction(session):
    with pytest.raises(ClickError, match="object 1: there is no reading to choose yet; prompt it first"):
        session.choose(0)
    session.click(ijk=MIDDLE)
    session.click(ijk=ELSEWHERE, foreground=False)
    with pytest.raises(ClickError, match="object 1: no reading 1; there is one, 0, as only a first prompt is ambig"):
        session.choose(1)
    assert len(session.prompts) == 2


def test_each_object_has_readings_of_its_own(session):
    session.click(ijk=MIDDLE)
    chosen = session.choose(1)
    session.select("other")
    assert session.readings == ()
    session.click(ijk=ELSEWHERE)
    assert all(reading.mask[ELSEWHERE] and not reading.mask[MIDDLE] for reading in session.readings)
    session.select("object 1")
    assert session.chosen == 1 and len(session.readings) == 3
    np.testing.assert_array_equal(session.readings[1].mask, chosen)
    session.rename("object 1", "spot")
    np.testing.assert_array_equal(session.readings[1].mask, chosen)


def test_masks_that_are_much_alike_are_one_reading(scene):
    network = Nested()
    network.THRESHOLDS = (5.0, 5.2, 5.4)
    session = Session(network, scene[0])
    session.click(ijk=MIDDLE)
    assert len(session.readings) == 1
    assert distinct([1, 2, 10, 11, 20], lambda a, b: 1 - abs(a - b) / 20, 3) == [1, 10, 20]


def test_noise_in_an_organ_is_no_reading_of_a_click_on_it(scene):
    volume, network = scene[0], Nested()
    noisy = volume.data.copy()
    noisy[32:34, 30:32, 42:44] = 60.0  # 0.4 mL
    network.THRESHOLDS, network.IOU = (1.2, 3.5, 17.0), (0.6, 0.9, 0.8)
    session = Session(network, Volume(noisy, AFFINE, "SUVbw", source="eight hot voxels"))
    session.click(ijk=MIDDLE)
    assert [reading.quality for reading in session.readings] == pytest.approx([0.9, 0.6])


def test_a_fixed_voxel_size_other_intensities_and_other_methods_leave_one_reading(scene):
    volume, _ = scene
    released = Nested()
    released.config = ModelConfig(**{**released.config.__dict__, "intensity": "zscore_positive"})
    for session in (
        Session(Nested(), volume, spacing_mm=8.0), Session(released, volume), ThresholdSession(volume, "SUV>=4"),
        Session(ThresholdNetwork(), volume),
    ):  # fmt: skip
        mask = session.click(ijk=MIDDLE)
        (reading,) = session.readings
        assert reading.quality is None
        np.testing.assert_array_equal(reading.mask, mask)
        with pytest.raises(ClickError, match="no reading 1"):
            session.choose(1)


def test_a_mask_to_start_from_means_itself(session, scene):
    _, (_, part, _) = scene
    session.start_from(part)
    (reading,) = session.readings
    np.testing.assert_array_equal(reading.mask, part)


def test_a_network_that_fails_while_readings_are_worked_out_leaves_the_session_as_it_was(session):
    session.model.THRESHOLDS, session.model.IOU = (0.2, 3.5, 7.0), (0.1, 0.9, 0.7)  # the whole body needs more windows
    mask = session.click(ijk=MIDDLE)
    session.model.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        session.choose(1)
    np.testing.assert_array_equal(session.mask, mask)
    session.model.fails = False
    assert len(session.readings) == 3 and session.prompts == (Click(MIDDLE),)


def test_a_first_click_embeds_its_windows_together_and_readings_are_worked_out_once(session):
    session.click(ijk=MIDDLE)
    assert session.model.calls["embed"] <= 3
    session.readings  # noqa: B018 - asking for them is the act
    calls = dict(session.model.calls)
    assert len(session.readings) == 3 and session.chosen == 0
    session.choose(2)
    assert dict(session.model.calls) == calls


def test_three_readings_are_asked_for_once_and_of_nothing_but_the_prompt(scene):
    class Watched(Nested):
        def decode(self, embedding, points_ijk, labels, previous_logits, multimask=False):
            self.asked.append((multimask, bool(previous_logits.any())))
            return super().decode(embedding, points_ijk, labels, previous_logits, multimask)

    network = Watched()
    network.asked = []
    Session(network, scene[0]).click(ijk=MIDDLE)
    assert [started for multimask, started in network.asked if multimask] == [False]
    assert network.asked[0] == (True, False)


def test_the_shipped_network_offers_other_readings_without_a_quality():
    case = make_phantom(301)
    truth = case.organs == next(label for label, name in case.organ_names.items() if name == "liver")
    session = Session(load_model("tiny-base"), case.pet)
    inside = np.argwhere(truth)
    at = tuple(inside[len(inside) // 2].tolist())
    mask = session.click(ijk=at)
    readings = session.readings
    np.testing.assert_array_equal(readings[0].mask, mask)
    assert 1 <= len(readings) <= 3 and all(reading.mask[at] for reading in readings)
    assert all(one.packed.dice(other.packed) <= 0.9 for one, other in zip(readings, readings[1:], strict=False))


# ---- a 2D network


class Rings(torch.nn.Module):
    """Stands in for a `SamModel`: three discs around the first point, of which it likes the second best."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=64, patch_size=4))
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def vision_encoder(self, pixels):
        return SimpleNamespace(last_hidden_state=pixels[:, :1])

    def forward(self, image_embeddings, input_masks, multimask_output, input_points=None, input_labels=None,
                input_boxes=None):  # fmt: skip
        rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        x, y = input_points[0, 0, 0]
        away = ((columns - x) ** 2 + (rows - y) ** 2).sqrt()
        masks = torch.stack([radius - away for radius in (6.0, 12.0, 18.0)])
        return SimpleNamespace(pred_masks=masks[None, None], iou_scores=torch.tensor([[[0.5, 0.8, 0.6]]]))


def test_a_2d_network_gives_the_masks_that_it_proposes_for_the_slice_that_was_clicked(scene, tmp_path):
    volume, _ = scene
    model = Sam2D(Rings(), "rings")
    session = SliceSession(model, volume)
    mask = session.click(ijk=MIDDLE)
    readings = session.readings
    assert [round(reading.quality, 2) for reading in readings] == [0.8, 0.6, 0.5]
    np.testing.assert_array_equal(readings[0].mask, mask)
    assert readings[1].volume_ml > readings[0].volume_ml > readings[2].volume_ml
    smallest = session.choose(2)
    np.testing.assert_array_equal(smallest, readings[2].mask)
    assert session.chosen == 2
    session.save_journal(tmp_path / "clicks.json")
    np.testing.assert_array_equal(SliceSession.replay(model, volume, tmp_path / "clicks.json").mask, smallest)
    session.click(ijk=(MIDDLE[0], MIDDLE[1], MIDDLE[2] + 3))
    assert len(session.readings) == 1


# ---- journals of earlier editions


def test_a_journal_of_an_earlier_edition_says_which_one_it_needs(session, scene, tmp_path):
    path = tmp_path / "clicks.json"
    session.click(ijk=MIDDLE)
    session.save_journal(path)
    content = json.loads(path.read_text())
    digits = next(digits for digits, name in EDITIONS.items() if name == "tiny-base, second edition")
    content["model"] |= {"name": "tiny-base", "weights_sha256": digits + "0" * 48}
    path.write_text(json.dumps(content))
    with pytest.raises(JournalError, match=r"made with tiny-base, second edition and other weights.*than those of "
                       r"threshold.*Load what it was made with: the weights of tiny-base, second edition, which "
                       r"came with seganypet 0\.1\.0; load_model.*session\.add\(prompt\)\.$"):  # fmt: skip
        Session.replay(Nested(), scene[0], path)


def test_the_shipped_weights_are_in_the_list_of_editions():
    from seganypet.model.checkpoints import weights_sha256
    from seganypet.model.hub import edition

    for name in ("tiny-base", "tiny"):
        assert str(edition(weights_sha256(load_model(name)))).startswith(f"{name}, ")
