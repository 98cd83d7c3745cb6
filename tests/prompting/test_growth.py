"""An object larger than a window is whole after one click, and growth neither leaks nor outlives what it grew from."""

import numpy as np
import pytest
import torch
from ball_scene import AFFINE, COLD, HOT, dice, windows_of
from threshold_network import ThresholdNetwork

from seganypet.pet.volume import Volume
from seganypet.prompting.growth import MAX_WINDOWS, drop_orphan_windows
from seganypet.prompting.session import Session
from seganypet.prompting.window import Window
from seganypet.prompting.window_logits import WindowLogits


@pytest.fixture
def network():
    return ThresholdNetwork()


def tube(length_mm, affine=AFFINE, shape=(60, 60, 180), radius_mm=30.0):
    """A hot tube along k through the middle of the grid, and its mask."""
    volume = Volume(np.zeros(shape), affine, "SUVbw")
    spacing = np.array(volume.spacing)
    from_middle = (np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
                   - (np.array(shape) - 1) / 2) * spacing  # fmt: skip
    inside = (np.hypot(from_middle[..., 0], from_middle[..., 1]) < radius_mm) & (
        np.abs(from_middle[..., 2]) < length_mm / 2
    )
    return Volume(np.where(inside, HOT, COLD), affine, "SUVbw"), inside


def test_an_object_longer_than_the_window_is_whole_after_one_click(network):
    volume, inside = tube(400.0)  # the window is 256 mm
    session = Session(network, volume)
    mask = session.click(ijk=(30, 30, 60))
    assert network.calls["embed"] >= 2
    assert dice(mask, inside) > 0.85
    ends = np.flatnonzero(mask.any((0, 1)))[[0, -1]], np.flatnonzero(inside.any((0, 1)))[[0, -1]]
    assert np.abs(np.subtract(*ends)).max() * 3.0 <= 16.0  # one voxel of its logits
    assert mask[29:31, 29:31, ends[1][0] + 6 : ends[1][1] - 5].all()  # nowhere cut or thinned between
    # And undo takes back the windows that growth opened.
    session.click(ijk=(30, 30, 62))
    np.testing.assert_array_equal(session.undo(), mask)
    assert not session.undo().any()


def test_every_window_is_embedded_once_while_it_grows_and_never_again(network):
    volume, _ = tube(400.0)
    session = Session(network, volume)
    session.click(ijk=(30, 30, 60))
    embedded = network.calls["embed"]
    session.click(ijk=(30, 30, 110))
    session.click(ijk=(30, 31, 40))
    assert network.calls["embed"] == embedded


class EveryBrightIsland(ThresholdNetwork):
    """Marks all that is bright in a window, whatever was clicked."""

    def decode(self, embedding, points_ijk, labels, previous_logits):
        return 5 * (embedding.float() - torch.log1p(self.threshold)), torch.ones(len(labels), 1)


def test_a_window_that_growth_opened_continues_the_object_and_begins_no_other():
    volume, inside = tube(400.0)
    data = volume.data.copy()
    data[46:54, 26:34, 146:154] = HOT  # beyond the first window, apart from the tube
    data[46:54, 26:34, 56:64] = HOT  # beside the tube in the window that was clicked
    session = Session(EveryBrightIsland(), Volume(data, volume.affine, "SUVbw"))
    mask = session.click(ijk=(30, 30, 60))
    assert mask[30, 30, 150] and dice(mask[:45], inside[:45]) > 0.85, "the tube is whole"
    assert not mask[50, 30, 60] and not mask[50, 30, 150]
    assert session.click(ijk=(50, 30, 150))[50, 30, 150], "a click of its own brings it"


def test_an_object_inside_its_window_opens_no_other(network):
    volume, inside = tube(150.0)
    session = Session(network, volume)
    assert dice(session.click(ijk=(30, 30, 90)), inside) > 0.85
    assert len(windows_of(session)) == 1


@pytest.mark.parametrize("affine", [AFFINE, np.diag([-4.0, 4.0, 3.0, 1.0])], ids=["oblique", "straight"])
def test_an_object_cut_by_the_volume_itself_opens_no_other_window(network, affine):
    volume, inside = tube(400.0, affine, shape=(40, 40, 60))  # the whole scan fits into the window
    session = Session(network, volume)
    mask = session.click(ijk=(20, 20, 30))
    assert mask[20, 20, 2:-2].all() and dice(mask, inside) > 0.85
    assert len(windows_of(session)) == 1


def test_a_mask_at_the_end_of_a_long_scan_does_not_grow_out_of_it(network):
    volume = Volume(np.full((64, 64, 200), COLD), np.diag([4.0, 4.0, 3.0, 1.0]), "SUVbw")
    data = volume.data.copy()
    data[20:44, 20:44, :30] = HOT
    session = Session(network, Volume(data, volume.affine, "SUVbw"))
    mask = session.click(ijk=(32, 32, 5))
    assert mask[32, 32, :28].all() and not mask[:, :, 36:].any()
    assert len(windows_of(session)) == 1


def test_growth_that_runs_away_stops_and_warns_where_the_click_was_made(network):
    volume = Volume(np.full((90, 90, 90), HOT), np.diag([8.0, 8.0, 8.0, 1.0]), "SUVbw")
    session = Session(network, volume)
    session.select("liver")
    with pytest.warns(UserWarning, match="liver still meets the border of its 12 windows.*undo") as caught:
        session.click(ijk=(45, 45, 45))
    assert len(windows_of(session)) == MAX_WINDOWS == 12 and "undo" in session.notice
    assert caught[0].filename == __file__


def test_windows_that_grew_out_of_a_leak_close_when_the_leak_is_taken_back():
    def part(x_mm, inside, seeds=()):
        logits = torch.full((1, 1, 8, 8, 8), 1.0 if inside else -1.0)
        return WindowLogits(Window((x_mm, 0.0, 0.0), 16, 4.0), logits, seeds_mm=seeds)

    clicked = part(0.0, inside=True)
    grown = part(32.0, True, seeds=((48.0, 20.0, 20.0),))
    grown_again = part(64.0, True, seeds=((80.0, 20.0, 20.0),))
    assert drop_orphan_windows((clicked, grown, grown_again)) == (clicked, grown, grown_again)
    corrected = part(0.0, inside=False)
    assert drop_orphan_windows((corrected, grown, grown_again)) == (corrected,)
    assert drop_orphan_windows((clicked, part(32.0, False, grown.seeds_mm), grown_again))[2:] == ()


def test_a_negative_click_opens_no_window(network):
    volume, inside = tube(400.0)
    session = Session(network, volume)
    mask = session.click(ijk=(30, 30, 60))
    opened, embedded = windows_of(session), network.calls["embed"]
    outside = [ijk for ijk in np.ndindex(60, 60, 180) if not mask[ijk]]
    rng = np.random.default_rng(0)
    for at in (*rng.choice(outside, 5), *rng.choice(np.argwhere(mask), 5)):
        session.click(ijk=at, foreground=False)
        assert set(windows_of(session)) <= set(opened) and network.calls["embed"] == embedded
        assert not session.mask[tuple(at)]


def test_growth_is_undone_when_its_root_is(network):
    volume, _ = tube(400.0)
    session = Session(network, volume)
    session.click(ijk=(30, 30, 60))
    assert len(windows_of(session)) > 1
    first = session.mask
    session.click(ijk=(30, 30, 61), foreground=False)  # the network gives the whole tube up in its own window
    assert not session.mask[30, 30, 100:].any(), "what grew out of it is gone, too"
    np.testing.assert_array_equal(session.undo(), first)
