"""A click outside the body finds nothing; lungs, bowel gas and crops without air are body."""

import numpy as np
import pytest
from ball_scene import AFFINE, away_mm, with_balls
from conftest import oblique
from scipy import ndimage
from threshold_network import ThresholdNetwork

from seganypet.model.config import ModelConfig
from seganypet.pet.volume import Volume, load_volume
from seganypet.prompting.body import Body
from seganypet.prompting.session import Session

GRIDS = {
    "oblique, left-handed": (oblique((4.07, 4.07, 3.0), left_handed=True), (90, 70, 60)),
    "thick slices, axes swapped": (oblique((8.0, 3.0, 4.0))[:, [1, 2, 0, 3]], (110, 70, 30)),
    "2 mm": (oblique((2.0, 2.0, 2.0)), (180, 140, 90)),
    "5 mm": (np.diag([-5.0, 5.0, 5.0, 1.0]), (72, 56, 36)),
}
# Of air, tissue, lung, gas: means, and the noise of each.
UNITS = {
    "SUVbw": ((0.005, 1.0, 0.3, 0.02), 0.01),
    "HU": ((-1000.0, 40.0, -850.0, -1000.0), 20.0),
    "Bq/mL": ((20.0, 5000.0, 1500.0, 100.0), 40.0),
}


def trunk(grid, unit="SUVbw"):
    """A trunk that both ends of the volume cut, its two lungs, of which one meets an end, and gas in its bowel."""
    affine, shape = GRIDS[grid]
    volume = Volume(np.zeros(shape), affine, "SUVbw")
    at = (np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
          - (np.array(shape) - 1) / 2) * volume.spacing  # fmt: skip

    def ellipsoid(centre, radii):
        return (((at - centre) / radii) ** 2).sum(-1) <= 1

    body = ellipsoid((0, 0, 0), (145, 110, 1e6))
    lung = ellipsoid((-70, 0, 30), (45, 60, 70)) | ellipsoid((70, 0, -10), (45, 60, 40))
    gas = ellipsoid((0, 50, -20), (15, 15, 20))
    means, noise = UNITS[unit]
    what = np.where(gas, 3, np.where(lung, 2, body.astype(int)))
    data = np.array(means)[what] + np.random.default_rng(0).normal(0, noise, shape)
    return Volume(data, affine, unit), {"body": body & ~lung & ~gas, "lung": lung, "gas": gas, "air": ~body}


def holds(volume, region, count=60):
    """Of some voxels of a region, the fraction that lies in the body."""
    body = Body(volume)
    return np.mean([body.holds(tuple(at)) for at in np.random.default_rng(1).permutation(np.argwhere(region))[:count]])


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("grid", GRIDS)
def test_lungs_and_gas_belong_to_the_body_and_the_air_around_it_does_not(grid, unit):
    volume, regions = trunk(grid, unit)
    for name in ("body", "lung", "gas"):
        assert holds(volume, regions[name]) > 0.98, name
    # A block of about 8 mm at the skin may be half air.
    skin_mm = ndimage.distance_transform_edt(regions["air"], sampling=volume.spacing)
    far = skin_mm > 15
    assert far.any() and holds(volume, far) == 0


@pytest.mark.parametrize(
    "unit, value",
    [("SUVbw", 0.3), ("SUVbw", 5.0), ("HU", 40.0), ("HU", -850.0), ("Bq/mL", 3000.0)],
    ids=["lung", "hot", "tissue in HU", "lung in HU", "tissue in Bq/mL"],
)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 2), (30, 20, 10)])
def test_a_crop_without_air_is_all_body(unit, value, shape):
    noise = np.random.default_rng(0).normal(0, abs(value) / 50, shape)
    volume = Volume(np.full(shape, value) + noise, AFFINE, unit)
    assert holds(volume, np.ones(shape, bool)) == 1


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 2), (30, 20, 10)])
def test_in_an_empty_volume_there_is_no_body(shape):
    for unit, value in (("SUVbw", 0.0), ("HU", -1024.0), ("Bq/mL", 0.0)):
        assert holds(Volume(np.full(shape, value), AFFINE, unit), np.ones(shape, bool)) == 0


def test_a_table_and_hot_noise_are_no_body():
    volume, regions = trunk("2 mm")
    data = volume.data.copy()
    data[4:8, 60:80, 20:40] = 0.3  # 13 mL of a tube
    assert regions["air"][4:8, 60:80, 20:40].all()
    tube = np.zeros(data.shape, bool)
    tube[4:8, 60:80, 20:40] = True
    assert holds(Volume(data, volume.affine, "SUVbw"), tube) == 0


@pytest.fixture
def session():
    """Two balls in a body, and nothing around it."""
    volume, balls = with_balls(radius_mm=20.0, centres=((30, 32, 30), (36, 32, 60)))
    data = volume.data.copy()
    data[:12], data[-12:] = 0.0, 0.0
    return Session(ThresholdNetwork(), Volume(data, volume.affine, "SUVbw"))


def test_a_click_outside_the_body_gives_an_empty_mask_and_says_so_and_later_clicks_work(session):
    assert not session.click(ijk=(2, 30, 30)).any()
    assert "Nothing found" in session.notice and "outside the body" in session.notice
    mask = session.click(ijk=(30, 32, 30))
    assert mask[30, 32, 30] and session.notice == ""
    fresh = Session(ThresholdNetwork(), session.volume)
    np.testing.assert_array_equal(mask, fresh.click(ijk=(30, 32, 30)))
    np.testing.assert_array_equal(session.click(ijk=(60, 5, 5)), mask)
    assert "outside the body" in session.notice
    assert not session.click(ijk=(30, 32, 30), foreground=False)[30, 32, 30]
    for _ in range(3):
        session.undo()
    assert not session.mask.any() and "outside the body" in session.notice


def test_a_negative_click_after_a_click_on_nothing_is_no_error(session):
    session.click(ijk=(2, 30, 30))
    assert not session.click(ijk=(30, 32, 30), foreground=False).any() and session.notice
    assert session.click(ijk=(36, 32, 60))[36, 32, 60]


def test_a_click_on_nothing_is_no_object_elsewhere(session):
    rng = np.random.default_rng(0)
    for at in np.argwhere(session.volume.data == 0)[rng.integers(0, 10_000, 20)]:
        assert not session.click(ijk=at).any()
        session.undo()


@pytest.mark.parametrize("draw", ["scribble", "box", "lasso"])
def test_shapes_outside_the_body_find_nothing_either(session, draw):
    arguments = {
        "scribble": ([(1, 10, 10), (8, 50, 60)],),
        "box": ((1, 10, 10), (8, 50, 60)),
        "lasso": ([(3, 10, 10), (3, 50, 10), (3, 50, 60)],),
    }
    assert not getattr(session, draw)(*arguments[draw]).any()
    assert "outside the body" in session.notice and draw in session.notice


def test_a_scan_in_other_units_has_a_body_for_a_network_that_takes_it():
    volume, _ = trunk("5 mm", "Bq/mL")
    data = volume.data.copy()
    data[away_mm(volume, (36, 28, 18)) < 20] = 1e5
    network = ThresholdNetwork()
    network.config = ModelConfig(**{**network.config.__dict__, "intensity": "zscore_positive"})
    session = Session(network, Volume(data, volume.affine, "Bq/mL"))
    assert not session.click(ijk=(1, 1, 1)).any() and session.notice
    assert session.click(ijk=(36, 28, 18))[36, 28, 18]


@pytest.mark.parametrize("name", ["STS_002", "STS_003", "STS_005"])
def test_every_hot_voxel_of_a_real_crop_is_body(real_data, name):
    volume = load_volume(real_data / "sts" / name / "PET_image.nii.gz", unit="SUVbw")
    assert holds(volume, volume.data > 1.0, count=300) == 1
