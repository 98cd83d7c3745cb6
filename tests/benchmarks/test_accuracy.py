import numpy as np
import pytest
from conftest import oblique

from benchmarks.accuracy import best_threshold
from seganypet.errors import ClickError, GeometryError
from seganypet.metrics import dice
from seganypet.pet.volume import Volume
from seganypet.prompting.thresholds import ThresholdSession

HOT = (slice(3, 8), slice(4, 9), slice(5, 10))


def test_the_oracle_is_at_least_as_good_as_every_threshold():
    data = np.ones((24, 14, 16), np.float32)
    data[HOT] = 10
    data += np.random.default_rng(3).normal(0, 0.5, data.shape).astype(np.float32)
    noisy = Volume(data, oblique(spacing=(4.0, 2.0, 3.0), left_handed=True), "SUVbw")
    truth = np.zeros(noisy.shape, bool)
    truth[HOT] = True
    hottest = tuple(np.argwhere(data == data.max())[0])
    best = best_threshold(noisy, truth, hottest)
    assert best.dsc == dice(best.mask, truth)
    for suv in np.arange(1, 10, 0.5):
        assert best.dsc >= dice(ThresholdSession(noisy, f"SUV>={suv}").click(ijk=hottest), truth) - 0.01
    with pytest.raises(ClickError, match="needs a target"):
        best_threshold(noisy, np.zeros_like(truth), hottest)
    with pytest.raises(GeometryError):
        best_threshold(noisy, truth[1:], hottest)


def test_the_oracle_cannot_leave_out_what_is_hotter_than_an_organ():
    data = np.full((40, 40, 40), 0.5, np.float32)
    data[:, :20], data[:, :6] = 2, 8  # an organ, and beside it something hot
    volume = Volume(data, np.diag([3.0, 3.0, 3.0, 1.0]), "SUVbw")
    # 14 of 20 parts of its mask are right at best: DSC 2 x 14 / (14 + 20).
    assert best_threshold(volume, data == 2, (20, 13, 20)).dsc == pytest.approx(28 / 34)
