"""Pictures of tables: what a line, a colour and a marker say."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from seganypet.errors import SegAnyPETError
from seganypet.study import plots
from seganypet.study.agreement import bland_altman_of


@pytest.fixture(autouse=True)
def headless():
    matplotlib.use("Agg")
    yield
    matplotlib.pyplot.close("all")


def results() -> pd.DataFrame:
    rows = [
        ("a", "liver", "tiny", 1, 0.6), ("b", "liver", "tiny", 1, 0.8),
        ("a", "liver", "tiny", 2, 0.7), ("b", "liver", "tiny", 2, 0.9),
        ("a", "liver", "41 % of peak", 1, 0.2), ("b", "liver", "41 % of peak", 1, 0.3),
        ("a", "spleen", "tiny", 1, 0.5),
    ]
    return pd.DataFrame(rows, columns=["case", "target", "model", "click", "dsc"])


def test_a_line_of_dsc_is_the_mean_over_cases():
    lines = {line.get_label(): line for line in plots.plot_dsc(results()).lines}
    assert list(lines) == ["liver, tiny", "liver, 41 % of peak", "spleen, tiny"]
    np.testing.assert_allclose(lines["liver, tiny"].get_xydata(), [(1, 0.7), (2, 0.8)])  # (0.6 + 0.8) / 2, ...
    np.testing.assert_allclose(lines["liver, 41 % of peak"].get_xydata(), [(1, 0.25)])


def test_targets_differ_in_colour_and_models_in_line_style():
    liver, threshold, spleen = plots.plot_dsc(results()).lines
    assert liver.get_color() == threshold.get_color() != spleen.get_color()
    assert liver.get_linestyle() == spleen.get_linestyle() != threshold.get_linestyle()


def test_models_on_a_single_target_differ_in_colour():
    tiny, threshold = plots.plot_dsc(results().query("target == 'liver'")).lines
    assert tiny.get_color() != threshold.get_color()


def test_twelve_targets_are_told_apart():
    table = pd.concat([results().iloc[:1].assign(target=f"organ {number}") for number in range(12)])
    ax = Figure().subplots()
    assert len({(line.get_color(), line.get_marker()) for line in plots.plot_dsc(table, ax=ax).lines}) == 12


def test_many_lines_get_a_small_panel_for_each_target_and_one_legend():
    organs = [results().assign(target=f"organ {number}", model=results()["model"]) for number in range(5)]
    axes = plots.plot_dsc(pd.concat(organs))
    shown = [ax for ax in axes.flat if ax.axison]
    assert [ax.get_title() for ax in shown] == [f"organ {number}" for number in range(5)] and len(axes.flat) == 8
    assert len(axes[0, 0].figure.legends) == 1 and not any(ax.get_legend() for ax in shown)
    assert {len(ax.lines) for ax in shown} == {2}


def test_boxes_stand_for_the_cases_that_are_named_below_them():
    ax = plots.plot_boxes(results(), click=1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["liver\nn = 2", "spleen\nn = 1"]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 1.6]
    assert sorted(round(float(one), 3) for one in medians if one == one) == [0.25, 0.5, 0.7]


def test_a_table_without_dsc_or_rows_is_refused():
    with pytest.raises(SegAnyPETError, match="lacks column dsc"):
        plots.plot_dsc(results().drop(columns="dsc"))
    with pytest.raises(SegAnyPETError, match="has no rows"):
        plots.plot_dsc(results().iloc[:0])


def test_bias_and_limits_stand_where_they_were_computed():
    agreement = bland_altman_of([10, 12, 14, 16], [9, 12, 12, 15], quantity="MTV", unit="mL")
    ax = plots.plot_bland_altman(agreement)
    heights = {round(float(line.get_ydata()[0]), 6) for line in ax.lines[1:]}
    assert heights == {0.0, round(agreement.bias, 6), round(agreement.lower, 6), round(agreement.upper, 6)}
    drawn = np.column_stack([ax.lines[0].get_xdata(), ax.lines[0].get_ydata()])
    assert drawn.tolist() == [[9.5, 1], [12, 0], [13, 2], [15.5, 1]]
    assert "MTV (mL)" in ax.get_xlabel() and "n = 4" in ax.get_ylabel()
