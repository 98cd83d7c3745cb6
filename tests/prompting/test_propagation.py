"""A finished slice is carried to its neighbours, as far as the object goes and no further."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_slicewise import AFFINES, TILTED, array_axis

from seganypet.errors import ClickError, JournalError
from seganypet.model.sam2d import CLICK_PROMPTS, SAM_PROMPTS, Sam2D
from seganypet.pet.views import VIEWS
from seganypet.pet.volume import Volume
from seganypet.prompting.prompts import Propagation, read_prompt, write_prompt
from seganypet.prompting.propagation import ObjectLook, end_of_object
from seganypet.prompting.slices import slices_of
from seganypet.prompting.slicewise import SliceSession

SHAPE = (26, 30, 24)
CENTRE = (12, 15, 11)


class Islands(torch.nn.Module):
    """Stands in for a `SamModel`: the bright island under its points or most of its box; else what it was given before.

    `stubborn`: always what it was given before, wherever there is nothing.
    """

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=64, patch_size=4))
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.stubborn = False
        self.boxes: list[torch.Tensor] = []

    def vision_encoder(self, pixels):
        return SimpleNamespace(last_hidden_state=pixels[:, :1])

    def forward(self, image_embeddings, input_masks, multimask_output, input_points=None, input_labels=None,
                input_boxes=None):  # fmt: skip
        masks = torch.full((len(image_embeddings), 1, 64, 64), -5.0)
        for number, (grey, mask) in enumerate(zip(image_embeddings[:, 0].numpy(), masks, strict=True)):
            islands, count = ndimage.label(grey > 0)
            if input_boxes is not None:
                self.boxes.append(input_boxes[number, 0])
                x0, y0, x1, y1 = input_boxes[number, 0].round().int().tolist()
                sizes = np.bincount(islands[y0 : y1 + 1, x0 : x1 + 1].ravel(), minlength=count + 1)[1:]
                chosen = {int(sizes.argmax()) + 1} if sizes.any() else set()
            else:
                places = input_points[number, 0][input_labels[number, 0] == 1].round().int().tolist()
                chosen = {int(islands[y, x]) for x, y in places} - {0}
            if self.stubborn and input_masks is not None:
                mask[0] = input_masks[number, 0]
            elif chosen:
                mask[0] = torch.from_numpy(np.where(np.isin(islands, list(chosen)), 5.0, -5.0))
        masks = masks if not multimask_output else masks.expand(-1, 3, -1, -1)
        return SimpleNamespace(pred_masks=masks[:, None], iou_scores=torch.ones(len(masks), 1, masks.shape[1]))


def ellipsoid(affine: np.ndarray, *, radius_mm: float = 26.0, centre=CENTRE) -> np.ndarray:
    offsets = (np.moveaxis(np.indices(SHAPE), 0, -1) - centre) @ affine[:3, :3].T
    return np.linalg.norm(offsets / (1.0, 0.8, 1.1), axis=-1) <= radius_mm


def volume_of(bright: np.ndarray, affine: np.ndarray = TILTED) -> Volume:
    return Volume(np.where(bright, 6.0, 0.5), affine, "SUVbw", source="ellipsoid")


def dsc(mask, truth):
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize("accepts", [SAM_PROMPTS, CLICK_PROMPTS], ids=["boxes", "points"])
@pytest.mark.parametrize("axis", VIEWS)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_one_slice_is_carried_through_the_object_and_ends_with_it(affine, axis, accepts):
    truth = ellipsoid(affine)
    session = SliceSession(Sam2D(Islands(), "islands", accepts), volume_of(truth, affine), axis=axis)
    session.click(ijk=CENTRE)
    mask = session.propagate()
    stack, found = slices_of(truth, session.volume, axis), slices_of(mask, session.volume, axis)
    assert dsc(mask, truth) > 0.85
    # Its poles may shrink faster than a mask may.
    true_numbers, numbers = (np.flatnonzero(one.any((1, 2))) for one in (stack, found))
    assert 0 <= numbers[0] - true_numbers[0] <= 1 and 0 <= true_numbers[-1] - numbers[-1] <= 1
    assert session.notice.startswith(f"Carried from {axis} slice {session.position_of(CENTRE).number}: to slice ")


def test_the_next_slice_is_told_the_box_of_the_mask_and_that_mask_as_prior():
    sam, truth = Islands(), ellipsoid(TILTED)
    session = SliceSession(Sam2D(sam), volume_of(truth))
    session.click(ijk=CENTRE)
    session.propagate(slices=1)
    number = session.position_of(CENTRE).number
    rows, columns = np.nonzero(slices_of(session.mask, session.volume)[number])
    expected = torch.tensor([[columns.min(), rows.min(), columns.max(), rows.max()]])
    expected = session.model.boxes(expected, session._slices.shape[1:], session._decoder.pixel_mm)[0]
    assert len(sam.boxes) == 2
    for box in sam.boxes:
        torch.testing.assert_close(box, expected)
    found = np.flatnonzero(slices_of(session.mask, session.volume).any((1, 2)))
    assert found.tolist() == [number - 1, number, number + 1]


def test_a_network_that_draws_on_for_ever_is_stopped_where_the_object_is_no_longer_seen():
    sam, truth = Islands(), ellipsoid(TILTED)
    session = SliceSession(Sam2D(sam), volume_of(truth))
    session.click(ijk=CENTRE)
    sam.stubborn = True
    mask = session.propagate()
    assert "it would be much darker" in session.notice
    numbers, true_numbers = (np.flatnonzero(slices_of(one, session.volume).any((1, 2))) for one in (mask, truth))
    assert true_numbers[0] < numbers[0] and numbers[-1] < true_numbers[-1] and len(numbers) > 2


def test_a_slice_that_was_prompted_is_left_alone_and_what_was_carried_is_carried_anew():
    truth = ellipsoid(TILTED)
    session = SliceSession(Sam2D(Islands()), volume_of(truth))
    through = array_axis(session)
    along = np.eye(3, dtype=int)[through]
    low = (np.array(CENTRE) + 2 * along - np.roll([0, 1, 1], through)).tolist()
    high = (np.array(CENTRE) + 2 * along + np.roll([0, 2, 1], through)).tolist()
    session.box(low, high)
    by_hand = np.moveaxis(session.mask, through, 0)[CENTRE[through] + 2]
    session.click(ijk=CENTRE)
    mask = session.propagate()
    planes = np.moveaxis(mask, through, 0)
    np.testing.assert_array_equal(planes[CENTRE[through] + 2], by_hand)
    ends = [session.position_of((np.array(CENTRE) + step * along).tolist()).number for step in (1, 2)]
    assert f"to slice {ends[0]} (slice {ends[1]} was prompted)" in session.notice
    assert planes[CENTRE[through] + 1].any() and not planes[CENTRE[through] + 3].any()
    again = session.propagate()
    np.testing.assert_array_equal(again, mask)
    fewer = session.propagate(slices=1)
    assert fewer.any(axis=tuple({0, 1, 2} - {through})).sum() == 4, "three of this one, and the other by hand"
    for expected in (again, mask):
        np.testing.assert_array_equal(session.undo(), expected)
    corrected = tuple((np.array(CENTRE) - along).tolist())
    session.click(ijk=corrected, foreground=False)
    held = session.propagate(ijk=CENTRE)
    assert not held[corrected], "a carried slice takes corrections at once, and keeps them"


def test_propagation_stays_inside_a_box_in_space():
    truth = ellipsoid(TILTED)
    session = SliceSession(Sam2D(Islands()), volume_of(truth))
    session.box((0, 0, 9), (25, 29, 13))
    session.click(ijk=CENTRE)
    mask = session.propagate()
    assert mask.any() and not mask[..., :9].any() and not mask[..., 14:].any()


def test_a_journal_repeats_propagation(tmp_path):
    truth = ellipsoid(TILTED)
    session = SliceSession(Sam2D(Islands(), "islands"), volume_of(truth))
    session.click(ijk=CENTRE)
    mask = session.propagate(slices=3)
    path = tmp_path / "prompts.json"
    session.save_journal(path)
    again = SliceSession.replay(session.model, session.volume, path)
    np.testing.assert_array_equal(again.mask, mask)
    assert again.prompts == session.prompts == (session.prompts[0], Propagation(CENTRE, 3))
    assert again.notice == session.notice
    path.write_text(path.read_text().replace('"slices": 3', '"slices": "all"'))
    with pytest.raises(JournalError, match="no propagation; expected ijk"):
        SliceSession.replay(session.model, session.volume, path)


def test_what_cannot_be_propagated_changes_nothing():
    truth = ellipsoid(TILTED)
    session = SliceSession(Sam2D(Islands()), volume_of(truth))
    with pytest.raises(ClickError, match="nothing to propagate yet"):
        session.propagate()
    mask = session.click(ijk=CENTRE)
    far = tuple((np.array(CENTRE) + 4 * np.eye(3, dtype=int)[array_axis(session)]).tolist())
    for arguments, message in (
        ({"ijk": far}, r"nothing of it lies in axial slice \d+.*prompt that slice first"),
        ({"ijk": (99, 0, 0)}, "outside volume shape"),
        ({"slices": 0}, "slices=0; expected a whole number of slices above 0"),
        ({"slices": 2.5}, r"slices=2\.5; expected"),
        ({"slices": True}, "slices=True; expected"),
    ):
        with pytest.raises(ClickError, match=message):
            session.propagate(**arguments)
    np.testing.assert_array_equal(session.mask, mask)
    assert len(session.prompts) == 1


@pytest.mark.parametrize("slices", [None, 4])
def test_a_propagation_survives_json(slices):
    prompt = Propagation(CENTRE, slices)
    entry = write_prompt(prompt, TILTED)
    assert read_prompt(entry, TILTED) == prompt and entry["kind"] == "propagation"
    entry["mm"][0] += 3
    with pytest.raises(ClickError, match="contradict"):
        read_prompt(entry, TILTED)


# ---- where an object ends


def disc(radius: float, at=(20, 20)) -> np.ndarray:
    y, x = np.indices((40, 44))
    return np.hypot(y - at[0], x - at[1]) <= radius


def picture_of(mask: np.ndarray, inside: int = 120, outside: int = 20) -> np.ndarray:
    return np.where(mask, inside, outside).astype(np.uint8)


@pytest.mark.parametrize(
    "areas, before, after, picture, why",
    [
        ([], disc(8), disc(8), picture_of(disc(8)), ""),
        ([], disc(8), disc(6), picture_of(disc(6)), ""),
        ([300], disc(8), disc(7), picture_of(disc(7)), ""),
        ([], disc(8), disc(0) & False, picture_of(disc(8)), "the mask is empty"),
        ([], disc(8), disc(4), picture_of(disc(4)), "its area would change from 197 to 49 pixels"),
        ([], disc(6), disc(9), picture_of(disc(9)), "its area would change from 113 to 253 pixels"),
        ([], disc(5), disc(5, (20, 29)), picture_of(disc(5, (20, 29))), "it would lie elsewhere"),
        ([], disc(8), disc(8), picture_of(disc(8), 60), "it would be much darker"),
        ([], disc(8), disc(8), picture_of(disc(8), 190), "it would be much brighter"),
        ([197, 81], disc(6), disc(7), picture_of(disc(7)), "it would widen again, from 81 to 149 pixels"),
        ([81, 100], disc(6), disc(7), picture_of(disc(7)), ""),
    ],
)  # fmt: skip
def test_an_object_ends_where_its_mask_changes_implausibly(areas, before, after, picture, why):
    look = ObjectLook.of(picture_of(disc(8)), disc(8))
    assert end_of_object(look, [*areas, int(before.sum())], before, after, picture) == why
