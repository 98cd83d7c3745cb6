"""A learner who clicks sees how near each object comes to its truth."""

import numpy as np
import pytest
from ball_scene import BALLS_IJK, with_balls

from seganypet.errors import GeometryError, SegAnyPETError
from seganypet.prompting.thresholds import ThresholdSession
from seganypet.widgets.click import ClickWidget

VOLUME, BALLS = with_balls(radius_mm=20.0)
TRUTH = {"near": BALLS[0], "far": BALLS[2]}


@pytest.fixture
def session() -> ThresholdSession:
    session = ThresholdSession(VOLUME, "SUV>=2.5")
    session.select("near")
    return session


def test_the_score_rises_with_the_mask_and_undo_takes_it_back(session: ThresholdSession):
    widget = ClickWidget(session, truth=TRUTH, goal=0.95)
    assert widget.score == {"name": "near", "goal": 0.95, "curve": []}
    session.click(ijk=BALLS_IJK[1])  # the wrong ball
    session.click(ijk=BALLS_IJK[0])
    wrong, both = widget.score["curve"]
    assert wrong == 0 and both == pytest.approx(2 / 3, abs=0.02)
    session.undo()
    assert widget.score["curve"] == [0]


def test_each_object_has_its_own_score_and_one_without_a_truth_has_none(session: ThresholdSession):
    widget = ClickWidget(session, truth=TRUTH)
    session.click(ijk=BALLS_IJK[0])
    session.select("far")
    assert widget.score["curve"] == []
    session.click(ijk=BALLS_IJK[2])
    assert widget.score == {"name": "far", "goal": 0.9, "curve": [1.0]}
    session.select("unknown")
    assert widget.score == {}
    session.select("near")
    assert widget.score["curve"] == [1.0]


def test_one_mask_is_the_truth_of_any_object(session: ThresholdSession):
    widget = ClickWidget(session, truth=BALLS[0])
    session.select("whatever")
    session.click(ijk=BALLS_IJK[0])
    assert widget.score["curve"] == [1.0]


def test_without_a_truth_nothing_is_scored(session: ThresholdSession):
    session.click(ijk=BALLS_IJK[0])
    assert ClickWidget(session).score == {}


def test_a_truth_of_another_scan_and_a_goal_out_of_reach_are_refused(session: ThresholdSession):
    with pytest.raises(GeometryError, match="truth of near: shape"):
        ClickWidget(session, truth=np.ones((3, 3, 3), bool))
    with pytest.raises(SegAnyPETError, match="goal=1.5"):
        ClickWidget(session, truth=BALLS[0], goal=1.5)
