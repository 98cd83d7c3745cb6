import numpy as np
import pytest
from conftest import oblique
from scipy import ndimage

from seganypet.errors import ClickError, JournalError, SegAnyPETError, UnitError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume, load_labels, load_volume
from seganypet.phantom import make_phantom
from seganypet.prompting.random_walker import RandomWalkerSession
from seganypet.prompting.simulate import first_click, next_click
from seganypet.prompting.thresholds import RULES, FloodFill, ThresholdSession, baseline_session, hottest_voxel
from seganypet.regions import CONNECTED_26

# Blocks (i, j, k) on a background of SUV 1, none touching another.
HOT = (slice(3, 8), slice(4, 9), slice(5, 10))  # SUV 10, with a core of SUV 2 in the middle voxel (5, 6, 7)
WARM = (slice(14, 19), slice(4, 9), slice(5, 10))  # SUV 3


@pytest.fixture
def volume() -> Volume:
    data = np.ones((24, 14, 16), np.float32)
    data[HOT], data[WARM] = 10, 3
    data[5, 6, 7] = 2
    return Volume(data, oblique(spacing=(4.0, 2.0, 3.0), left_handed=True), "SUVbw", source="two blocks")


def region(volume: Volume, *parts) -> np.ndarray:
    mask = np.zeros(volume.shape, bool)
    for part in parts:
        mask[part] = True
    return mask


def test_share_of_the_peak_is_grown_from_the_clicked_voxel(volume):
    mask = ThresholdSession(volume, "41% SUVmax").click(ijk=(3, 4, 5))
    expected = region(volume, HOT)
    expected[5, 6, 7] = False  # 2 < 4.1
    assert np.array_equal(mask, expected)


def test_peak_is_sought_within_15_mm_and_no_farther(volume):
    # From (14, 6, 7) the hot block's nearest voxel (7, 6, 7) is 7 x 4 = 28 mm away: the peak is 3, 41 % of it 1.23.
    assert np.array_equal(ThresholdSession(volume, "41% SUVmax").click(ijk=(14, 6, 7)), region(volume, WARM))
    # A hot voxel 3 x 4 = 12 mm away raises the threshold above 3; 4 x 4 = 16 mm away it does not.
    for i, peak in ((11, 20.0), (10, 3.0)):
        data = volume.data.copy()
        data[i, 6, 7] = 20
        changed = Volume(data, volume.affine, "SUVbw")
        assert hottest_voxel(changed, (14, 6, 7))[1] == peak
        assert ThresholdSession(changed, "41% SUVmax").click(ijk=(14, 6, 7)).any() == (peak == 3.0)


def test_hottest_voxel_agrees_with_a_search_over_all_voxels(volume):
    data = np.random.default_rng(0).random(volume.shape, np.float32)
    noisy = Volume(data, volume.affine, "SUVbw")
    centres_mm = noisy.to_mm(np.moveaxis(np.indices(noisy.shape), 0, -1))
    for ijk in ((0, 0, 0), (12, 7, 8), (23, 13, 2)):
        near = np.linalg.norm(centres_mm - noisy.to_mm(ijk), axis=-1) <= 15
        found, value = hottest_voxel(noisy, ijk)
        assert value == data[near].max() == data[found]


def test_fixed_suv_is_grown_from_the_clicked_voxel(volume):
    assert np.array_equal(ThresholdSession(volume, "SUV>=2.5").click(ijk=(16, 6, 7)), region(volume, WARM))
    assert not ThresholdSession(volume, "SUV>=4").click(ijk=(16, 6, 7)).any()


def test_click_into_a_cold_core_grows_nothing_unless_it_snaps_to_the_hottest_voxel(volume):
    core = (5, 6, 7)
    for rule in ("41% SUVmax", "SUV>=2.5", "SUV>=4"):
        session = ThresholdSession(volume, rule)
        assert not session.click(ijk=core).any()
        assert session.notice == f"Nothing found at this click: 2 SUVbw is below the threshold ({rule})."
        snapping = ThresholdSession(volume, f"{rule}, from hottest")
        # The rule leaves the core out; that it was clicked puts it in.
        assert np.array_equal(snapping.click(ijk=core), region(volume, HOT)) and snapping.notice == ""


def test_regions_that_touch_by_a_corner_are_connected(volume):
    data = volume.data.copy()
    data[8, 9, 10] = 10  # shares a corner with the hot block's last voxel (7, 8, 9)
    mask = ThresholdSession(Volume(data, volume.affine, "SUVbw"), "41% SUVmax").click(ijk=(3, 4, 5))
    assert mask[8, 9, 10]


def test_band_takes_an_organ_out_of_hotter_and_colder_neighbours():
    data = np.full((40, 40, 40), 0.5, np.float32)
    data[:, :20] = 2  # the organ: one half of the volume, warmer than the other
    data[:, :6] = 8  # and beside it something hot
    volume = Volume(data, np.diag([3.0, 3.0, 3.0, 1.0]), "SUVbw")
    truth = data == 2
    click = first_click(truth, spacing=volume.spacing).ijk
    assert dice(ThresholdSession(volume, "band").click(ijk=click), truth) > 0.85


def test_several_positive_clicks_give_the_union_and_reset_forgets(volume):
    session = ThresholdSession(volume, "SUV>=2.5")
    session.click(ijk=(3, 4, 5))
    both = region(volume, HOT, WARM)
    both[5, 6, 7] = False
    assert np.array_equal(session.click(ijk=(16, 6, 7)), both)
    session.reset()
    assert not session.mask.any() and session.clicks == ()
    assert np.array_equal(session.click(ijk=(16, 6, 7)), region(volume, WARM))


def test_negative_click_cuts_half_way_in_millimetres(volume):
    data = np.ones((20, 20, 6), np.float32)
    data[2:18, 2:18] = 5
    square = Volume(data, oblique(spacing=(4.0, 2.0, 3.0)), "SUVbw")
    session = ThresholdSession(square, "SUV>=2.5")
    session.click(ijk=(4, 4, 3))
    mask = session.click(ijk=(10, 12, 3), foreground=False)
    # By distances written out for every voxel centre, in world millimetres.
    centres_mm = square.to_mm(np.moveaxis(np.indices(square.shape), 0, -1))
    to_positive = np.linalg.norm(centres_mm - square.to_mm((4, 4, 3)), axis=-1)
    to_negative = np.linalg.norm(centres_mm - square.to_mm((10, 12, 3)), axis=-1)
    clear = np.abs(to_positive - to_negative) > 1e-9  # a tie may go either way
    assert np.array_equal(mask[clear], ((data > 2.5) & (to_positive < to_negative))[clear])


def test_negative_click_drops_pieces_that_lose_their_connection():
    data = np.ones((30, 9, 9), np.float32)
    data[2:28, 4, 4] = 5  # a rod along i
    volume = Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]), "SUVbw")
    session = ThresholdSession(volume, "SUV>=2.5")
    session.click(ijk=(4, 4, 4))
    mask = session.click(ijk=(10, 4, 4), foreground=False)
    # Voxel 7 is as near to 4 as to 10 and stays; all beyond goes, also what is far from both.
    assert np.array_equal(np.flatnonzero(mask[:, 4, 4]), np.arange(2, 8))


def test_a_first_click_must_be_positive(volume):
    with pytest.raises(ClickError, match="must be foreground"):
        ThresholdSession(volume, "SUV>=2.5").click(ijk=(5, 5, 5), foreground=False)


def test_a_threshold_has_objects_undo_and_a_journal_like_a_network(volume, tmp_path):
    session = ThresholdSession(volume, "SUV>=2.5")
    session.select("hot")
    hot = session.click(ijk=(3, 4, 5))
    cut = session.click(ijk=(16, 6, 7), foreground=False)
    session.select("warm")
    warm = session.click(ijk=(16, 6, 7))
    session.save_journal(tmp_path / "clicks.json")
    again = ThresholdSession(volume, "SUV>=2.5")
    again.load_journal(tmp_path / "clicks.json")
    assert np.array_equal(again.mask_of("hot"), cut) and np.array_equal(again.mask_of("warm"), warm)
    session.undo()
    assert np.array_equal(session.undo(), hot) and session.active == "hot"
    with pytest.raises(JournalError, match="made with threshold SUV>=2.5 and other .* than those of threshold SUV>=4"):
        ThresholdSession(volume, "SUV>=4").load_journal(tmp_path / "clicks.json")


def test_click_in_millimetres_is_the_same_click(volume):
    by_voxel = ThresholdSession(volume, "41% SUVmax").click(ijk=(3, 4, 5))
    session = ThresholdSession(volume, "41% SUVmax")
    assert np.array_equal(session.click(mm=volume.to_mm((3, 4, 5)) + 0.4), by_voxel)
    assert session.clicks[0].ijk == (3, 4, 5)


def test_masks_handed_out_are_not_changed_by_later_clicks(volume):
    session = ThresholdSession(volume, "SUV>=2.5")
    first = session.click(ijk=(3, 4, 5))
    kept = first.copy()
    first[:] = False  # nor does the caller's use of it change the session
    assert np.array_equal(session.mask, kept)


@pytest.mark.parametrize(
    ("rule", "unit", "error", "message"),
    [
        ("forty", "SUVbw", SegAnyPETError, "unknown threshold rule 'forty'.*'41% SUVmax'"),
        ("0% SUVmax", "SUVbw", SegAnyPETError, "threshold rule of 0% SUVmax; expected above 0"),
        ("SUV>=2.5", "Bq/mL", UnitError, "is in Bq/mL; the rule 'SUV>=2.5' needs SUVbw"),
        ("41% SUVmax", "HU", UnitError, "needs PET"),
        ("band", "HU", UnitError, "needs PET"),
    ],
)
def test_rules_that_make_no_sense_are_refused(volume, rule, unit, error, message):
    with pytest.raises(error, match=message):
        ThresholdSession(Volume(volume.data, volume.affine, unit), rule)


def test_clicks_that_make_no_sense_are_refused(volume):
    session = ThresholdSession(volume)
    with pytest.raises(ClickError, match=r"two blocks: ijk=\(24.0, 0.0, 0.0\) lies outside"):
        session.click(ijk=(24, 0, 0))
    for place in ({}, {"ijk": (1, 1, 1), "mm": (0, 0, 0)}):
        with pytest.raises(ClickError, match="either as ijk"):
            session.click(**place)
    assert session.clicks == ()


# ---- random walker


def ball(volume: Volume, centre: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    centres_mm = volume.to_mm(np.moveaxis(np.indices(volume.shape), 0, -1))
    return np.linalg.norm(centres_mm - volume.to_mm(centre), axis=-1) <= radius_mm


def balls(spacing=(4.0, 2.0, 3.0), shape=(60, 100, 66)) -> tuple[Volume, np.ndarray, np.ndarray]:
    """Two balls of SUV 3 that touch, radii 30 and 24 mm, on SUV 1 with noise; left-handed and oblique."""
    grid = Volume(np.zeros(shape), oblique(spacing, left_handed=True), "SUVbw")
    centre = np.array(shape) // 2
    other = centre + np.array([round(52 / spacing[0]) // 2, 0, round(46 / spacing[2])])
    one, two = ball(grid, centre, 30.0), ball(grid, other, 24.0)
    data = 1.0 + 2.0 * (one | two) + np.random.default_rng(0).normal(0, 0.1, shape)
    return Volume(data, grid.affine, "SUVbw", source="two balls"), one, two & ~one


def test_one_click_walks_to_the_edge_of_a_ball_on_an_awkward_grid():
    grid = Volume(np.zeros((40, 70, 50)), oblique((4.0, 2.0, 3.0), left_handed=True), "SUVbw")
    truth = ball(grid, (20, 36, 24), 28.0)
    data = 1 + 2 * truth + np.random.default_rng(0).normal(0, 0.1, grid.shape)
    volume = Volume(data, grid.affine, "SUVbw")
    mask = RandomWalkerSession(volume).click(ijk=(20, 36, 24))
    assert mask.shape == volume.shape and mask.dtype == bool
    assert dice(mask, truth) > 0.93
    centres_mm = volume.to_mm(np.argwhere(mask)).mean(axis=0)
    assert np.linalg.norm(centres_mm - volume.to_mm((20, 36, 24))) < 1.5  # neither shifted nor flipped


def test_a_negative_click_takes_the_touching_ball_away_and_undo_brings_it_back():
    volume, one, two = balls()
    session = RandomWalkerSession(volume)
    both = session.click(ijk=first_click(one, spacing=volume.spacing).ijk)
    cut = session.click(ijk=first_click(two, spacing=volume.spacing).ijk, foreground=False)
    assert (cut & two).sum() < 0.2 * two.sum() and dice(cut, one) > 0.85
    assert np.array_equal(session.undo(), both)


def test_finer_voxels_are_averaged_and_give_the_same_region():
    coarse, one, _ = balls(spacing=(4.0, 4.0, 4.0), shape=(50, 50, 50))
    fine, fine_one, _ = balls(spacing=(2.0, 2.0, 2.0), shape=(100, 100, 100))
    for volume, truth in ((coarse, one), (fine, fine_one)):
        session = RandomWalkerSession(volume)
        session.click(ijk=first_click(truth, spacing=volume.spacing).ijk)
        mask = session.click(ijk=first_click(balls_rest(volume, truth), spacing=volume.spacing).ijk, foreground=False)
        assert dice(mask, truth) > 0.85


def balls_rest(volume: Volume, one: np.ndarray) -> np.ndarray:
    """Where it is hot and not the first ball."""
    return (volume.data > 2) & ~one


def test_the_random_walker_is_deterministic_and_keeps_a_journal(volume, tmp_path):
    session = RandomWalkerSession(volume)
    mask = session.click(ijk=(16, 6, 7))
    assert mask[16, 6, 7] and not mask[5, 6, 7]
    session.save_journal(tmp_path / "clicks.json")
    again = RandomWalkerSession(volume)
    again.load_journal(tmp_path / "clicks.json")
    assert np.array_equal(again.mask, mask)
    with pytest.raises(JournalError, match="made with random walker"):
        ThresholdSession(volume, "SUV>=2.5").load_journal(tmp_path / "clicks.json")


def test_an_organ_cut_by_the_field_of_view_reaches_the_volumes_end():
    # A half ball that lies against the end of i, in a volume too long in j for one box.
    grid = Volume(np.zeros((30, 120, 50)), oblique((4.0, 3.0, 3.0)), "SUVbw")
    truth = ball(grid, (29, 60, 25), 24.0)
    volume = Volume(1.0 + 3.0 * truth, grid.affine, "SUVbw")
    mask = RandomWalkerSession(volume).click(ijk=first_click(truth, spacing=volume.spacing).ijk)
    assert mask[29, 60, 25] and dice(mask, truth) > 0.9


def test_a_volume_of_a_few_voxels_is_taken_whole():
    small = Volume(np.ones((1, 1, 2)), np.diag([4.0, 4.0, 4.0, 1.0]), "SUVbw")
    assert RandomWalkerSession(small).click(ijk=(0, 0, 0)).any()


def test_where_nothing_can_be_told_apart_the_nearer_seed_wins():
    flat = Volume(np.ones((30, 60, 40)), oblique((4.0, 2.0, 3.0)), "SUVbw")
    session = RandomWalkerSession(flat)
    session.click(ijk=(8, 30, 20))
    mask = session.click(ijk=(22, 30, 20), foreground=False)
    assert mask[8, 30, 20] and mask[12, 30, 20] and not mask[18:].any()


def test_any_baseline_opens_by_name(volume):
    assert isinstance(baseline_session(volume, "random_walker"), RandomWalkerSession)
    assert [baseline_session(volume, rule).rule for rule in RULES] == list(RULES)
    with pytest.raises(SegAnyPETError, match="unknown threshold rule 'forty'"):
        baseline_session(volume, "forty")
    with pytest.raises(UnitError, match="is in Bq/mL; the random walker .* needs SUVbw"):
        baseline_session(Volume(volume.data, volume.affine, "Bq/mL"), "random_walker")


def test_one_click_finds_most_of_a_phantoms_liver():
    case = make_phantom(300)
    liver = case.organs == next(label for label, name in case.organ_names.items() if name == "liver")
    click = first_click(liver, spacing=case.pet.spacing)
    assert dice(RandomWalkerSession(case.pet).click(ijk=click.ijk), liver) > 0.8


def test_real_sarcoma_thresholds_behave_as_published(real_data):
    """STS_003, a homogeneous hot lesion, and STS_002, whose centre is necrotic."""

    def case(name):
        volume = load_volume(real_data / "sts" / name / "PET_image.nii.gz", unit="SUVbw")
        return volume, load_labels(real_data / "sts" / name / "PET_mask.nii.gz", like=volume) > 0

    volume, truth = case("STS_003")
    deepest = first_click(truth, spacing=volume.spacing).ijk
    for rule in ("41% SUVmax", "SUV>=2.5", "SUV>=4"):
        assert dice(ThresholdSession(volume, rule).click(ijk=deepest), truth) > 0.8
    volume, truth = case("STS_002")
    deepest = first_click(truth, spacing=volume.spacing)
    for rule in ("41% SUVmax", "SUV>=2.5", "SUV>=4"):
        assert dice(ThresholdSession(volume, rule).click(ijk=deepest.ijk), truth) == 0
        session = ThresholdSession(volume, f"{rule}, from hottest")
        mask = session.click(ijk=deepest.ijk)
        assert dice(mask, truth) > 0.45
        assert next_click(truth, mask, spacing=volume.spacing) is not None


@pytest.mark.parametrize("seed", range(4))
def test_a_flood_fills_what_labelling_the_whole_scan_finds_however_far_it_goes(seed):
    rng = np.random.default_rng(seed)
    data = ndimage.gaussian_filter(rng.standard_normal((150, 40, 90)), (2, 5, 3)).astype(np.float32)
    level = float(np.quantile(data, 0.6))
    seeds = np.argwhere(data >= level)[rng.integers(1000, size=2)]
    pieces, _ = ndimage.label(data >= level, CONNECTED_26)
    expected = np.isin(pieces, pieces[tuple(seeds.T)])
    flood = FloodFill(data)
    for start, fill in ((seeds, expected), (seeds[0], pieces == pieces[tuple(seeds[0])])):  # the scan is labelled once
        box, inside = flood.grow(start, level)
        filled = np.zeros_like(expected)
        filled[box] = inside
        np.testing.assert_array_equal(filled, fill)
