import numpy as np
import pytest
from conftest import oblique

from seganypet.errors import JournalError, VolumeError
from seganypet.pet.quantification import quantify, threshold_mask
from seganypet.pet.threshold_rules import ThresholdRule
from seganypet.pet.volume import Volume
from seganypet.prompting.journal import Journal
from seganypet.prompting.thresholds import RULES, ThresholdSession


@pytest.fixture
def volume() -> Volume:
    data = np.random.default_rng(0).gamma(2.0, 2.0, (12, 10, 9)).astype(np.float32)
    return Volume(data, oblique(spacing=(4.0, 2.0, 3.0)), "SUVbw")


def test_every_rule_of_the_tables_is_its_own_name():
    assert [str(ThresholdRule.parse(rule)) for rule in RULES] == list(RULES)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("SUV>=4.0", "SUV>=4"), ("SUV >= 2.5", "SUV>=2.5"), ("50.50 % SUVmax", "50.5% SUVmax")],
)
def test_spaces_and_decimals_do_not_make_another_rule(spelled, name):
    assert str(ThresholdRule.parse(spelled)) == name and ThresholdRule.parse(spelled) == ThresholdRule.parse(name)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("41%", "41% SUVmax"), ("4.0", "SUV>=4"), ("2.5", "SUV>=2.5"), ("fixed4", "SUV>=4"),
        ("41% hottest", "41% SUVmax, from hottest"), ("4.0 hottest", "SUV>=4, from hottest"),
    ],
)  # fmt: skip
def test_an_old_name_is_refused_with_the_new_one(volume, old, new):
    mask = np.ones(volume.shape, bool)
    for call in (
        lambda: ThresholdSession(volume, old),
        lambda: threshold_mask(volume, mask, old),
        lambda: quantify(volume, mask, threshold=old),
    ):
        with pytest.raises(VolumeError, match=f"threshold rule '{old}': expected '{new}'"):
            call()


@pytest.mark.parametrize("rule", ["band", "41% SUVmax, from hottest"])
def test_what_grows_from_a_click_measures_no_mask(volume, rule):
    with pytest.raises(VolumeError, match=f"'{rule}' grows from a click"):
        quantify(volume, np.ones(volume.shape, bool), threshold=rule)


def test_any_percentage_and_any_suv_narrow_a_mask(volume):
    mask = np.zeros(volume.shape, bool)
    mask[2:9, 1:8, 2:7] = True
    highest = volume.data[mask].max()
    for percent in (25.0, 41.0, 70.5):
        expected = mask & (volume.data >= percent / 100 * highest)
        assert np.array_equal(threshold_mask(volume, mask, f"{percent}% SUVmax"), expected)
        assert np.array_equal(threshold_mask(volume, mask, ThresholdRule(percent=percent)), expected)
    table = quantify(volume, mask, threshold="SUV>=3.5")
    assert table["definition"].str.contains("SUVbw >= 3.5", regex=False).all()


@pytest.mark.parametrize(
    "arguments",
    [{"percent": 41.0, "suvbw": 4.0}, {"percent": 0.0}, {"percent": 101.0}, {"suvbw": 0.0}, {"from_hottest": True}],
)
def test_a_rule_that_cannot_be_is_refused(arguments):
    with pytest.raises(VolumeError):
        ThresholdRule(**arguments)


@pytest.mark.parametrize("old", ["41%", "2.5 hottest"])
def test_a_journal_with_the_old_name_of_its_rule_is_repeated(volume, tmp_path, old):
    path = tmp_path / "clicks.json"
    rule = {"41%": "41% SUVmax", "2.5 hottest": "SUV>=2.5, from hottest"}[old]
    session = ThresholdSession(volume, rule)
    mask = session.click(ijk=(5, 4, 3))
    session.save_journal(path)
    path.write_text(path.read_text().replace(rule, old))
    assert Journal.load(path).model["name"] == f"threshold {old}"
    again = ThresholdSession(volume, rule)
    again.load_journal(path)
    assert np.array_equal(again.mask, mask)
    with pytest.raises(JournalError, match="would differ"):
        ThresholdSession(volume, "SUV>=4").load_journal(path)
