"""Three things are wrong with the masks of the hunt, each large enough to be seen."""

from seganypet.lessons.hunt import HUNTED, WRONG, spoilt_masks
from seganypet.metrics import dice
from seganypet.phantom import make_phantom


def test_what_is_wrong_is_far_off_and_the_rest_is_true():
    phantom = make_phantom(9000)
    truths = {name: phantom.organs == label for label, name in phantom.organ_names.items()}
    before = {name: truths[name].copy() for name in HUNTED}
    scores = {name: dice(mask, truths[name]) for name, mask in spoilt_masks(truths).items()}
    assert {name for name, score in scores.items() if score < 0.7} == set(WRONG)
    assert {name for name, score in scores.items() if score == 1} == set(HUNTED) - set(WRONG)
    assert all((truths[name] == before[name]).all() for name in HUNTED)
