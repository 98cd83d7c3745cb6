"""Recorded clicks stand in where nobody clicks, and hold out of a learner's way."""

import json
from pathlib import Path

import pytest
from ball_scene import BALLS_IJK, with_balls

from seganypet.lessons.hands import stand_in
from seganypet.prompting.thresholds import ThresholdSession

VOLUME, _ = with_balls(radius_mm=20.0)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.json"
    path.write_text(
        json.dumps({"1": {"one": [[*BALLS_IJK[0], True]], "two": [[*BALLS_IJK[2], True], [0, 0, 0, False]]}})
    )
    return path


def test_recorded_clicks_are_made_where_nobody_clicked(recorded: Path):
    session = ThresholdSession(VOLUME, "SUV>=2.5")
    assert "recorded clicks stand in" in stand_in(session, recorded, "1")
    assert session.objects == ("one", "two")
    assert [click.foreground for click in session.clicks_of("two")] == [True, False]


def test_a_learners_clicks_stay(recorded: Path):
    session = ThresholdSession(VOLUME, "SUV>=2.5")
    session.select("mine")
    session.click(ijk=BALLS_IJK[1])
    assert stand_in(session, recorded, "1") == "your clicks: 1 on mine"
    assert session.objects == ("mine",)
