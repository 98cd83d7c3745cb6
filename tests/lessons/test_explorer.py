"""Sliders above a picture: a move draws anew; without a kernel the picture stays."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ball_scene import BALLS_IJK, with_balls
from matplotlib.figure import Figure

from seganypet.lessons import pictures_network, pictures_pet, pictures_prompts, pictures_training
from seganypet.lessons.explorer import Explorer

VOLUME, BALLS = with_balls(radius_mm=20.0)
SIMPLE = {
    "suv_calculator": pictures_pet.suv_calculator,
    "lean_mass": pictures_pet.lean_mass,
    "grey_scale": lambda: pictures_pet.grey_scale(VOLUME),
    "hot_ball": pictures_pet.hot_ball,
    "threshold_on": lambda: pictures_pet.threshold_on(VOLUME, BALLS_IJK[0], BALLS[0]),
    "outline_shift": lambda: pictures_pet.outline_shift(VOLUME, BALLS[1], "ball"),
    "window_view": lambda: pictures_prompts.window_view(VOLUME, BALLS_IJK[1], 64, 32),
    "best_of_many": pictures_prompts.best_of_many,
    "ceiling": pictures_prompts.ceiling,
    "burden": lambda: pictures_prompts.burden(VOLUME, BALLS[0], BALLS[1]),
    "limits_of_agreement": pictures_prompts.limits_of_agreement,
    "vote": lambda: pictures_training.vote(BALLS[1], VOLUME.spacing),
    "ramp": pictures_training.ramp,
    "repeated_studies": pictures_training.repeated_studies,
    "relative_bias": pictures_network.relative_bias,
    "padding": pictures_network.padding,
}


@pytest.mark.parametrize("make", SIMPLE.values(), ids=SIMPLE)
def test_every_control_draws_from_end_to_end_and_says_something(make):
    explorer = make()
    began = bytes(explorer._image.value)
    for control in explorer.controls.values():
        before = control.value
        choices = control.options if hasattr(control, "options") else None
        ends = choices or ((False, True) if isinstance(before, bool) else (control.min, control.max))
        for value in ends:
            control.value = value
            assert explorer.text
        control.value = before
    assert bytes(explorer._image.value) == began, "the same values, the same picture"


def test_a_page_without_a_kernel_gets_the_picture_as_it_is_now():
    def draw(figure: Figure, height: float = 1.0) -> str:
        figure.subplots().bar([0], [height])
        return f"height {height:g}"

    explorer = Explorer(draw, {"height": (0.0, 3.0, 0.5)}, (4, 3))
    explorer.controls["height"].value = 2.5
    data, _ = explorer._repr_mimebundle_()
    assert data["text/plain"] == "height 2.5"
    assert plt.imread(io.BytesIO(data["image/png"])).shape[:2] == (240, 320)


def test_thresholds_of_a_ball_follow_arithmetic():
    explorer = pictures_pet.threshold_on(VOLUME, BALLS_IJK[0], BALLS[0])
    explorer.controls["percent"].value = 50.0
    assert "DSC 1.00" in explorer.text


def test_a_slip_of_the_clock_is_worth_what_decays_in_an_hour():
    explorer = pictures_pet.suv_calculator()
    explorer.controls["slip"].value = "clock one hour late"
    assert f"({2 ** (-60 / 109.77) - 1:+.0%})" in explorer.text


def test_where_a_formula_of_lean_mass_ends_the_slider_says_so():
    explorer = pictures_pet.lean_mass()
    explorer.controls["height_m"].value = 1.4
    explorer.controls["weight_kg"].value = 150.0
    assert "james: no SUL" in explorer.text
    assert "janmahasatian: SUL" in explorer.text


def test_an_outline_that_is_moved_by_nothing_changes_nothing():
    explorer = pictures_pet.outline_shift(VOLUME, BALLS[1], "ball")
    explorer.controls["shift_mm"].value = 0.0
    assert explorer.text == "ball: volume +0 %, SUVmean +0 %, SUVmax +0 %; DSC 1.00"


def test_systematic_errors_stay_however_many_vote():
    explorer = pictures_training.vote(np.pad(BALLS[1], 12), VOLUME.spacing)
    explorer.controls["random_mm"].value = 0.0
    explorer.controls["bias_mm"].value = 12.0
    said = []
    for annotators in (1, 100):
        explorer.controls["annotators"].value = annotators
        said.append(explorer.text.split()[-1])
    assert said[0] == said[1] and float(said[0]) < 0.9


def test_one_click_on_equal_lesions_is_bounded_by_their_number():
    explorer = pictures_prompts.ceiling()
    explorer.controls["unevenness"].value = 0.0
    explorer.controls["lesions"].value = 20
    assert explorer.text.startswith(f"one click: {2 / 21:.2f};")
