"""SUV tables: SUVpeak against brute-force integration, volumes by counting, SUL by arithmetic, refusals."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from conftest import oblique

from seganypet.errors import GeometryError, SUVError, UnitError, VolumeError
from seganypet.pet.dicom import load_dicom
from seganypet.pet.quantification import PEAK_RADIUS_MM, Threshold, peak_weights, quantify, sul_factor, threshold_mask
from seganypet.pet.volume import Volume
from seganypet.phantom import make_phantom

AFFINE = oblique((4.07, 4.07, 3.0), left_handed=True)
SHAPE = (24, 22, 26)


def _ball(radius_mm, shape=SHAPE, affine=AFFINE, centre=None):
    """Bool mask of the voxels whose centres lie in a ball, slightly off the grid unless told."""
    grid = Volume(np.zeros(shape), affine, "SUVbw")
    ijk = (np.array(shape) / 2 + (0.2, -0.3, 0.1)) if centre is None else centre
    places = grid.to_mm(np.moveaxis(np.indices(shape), 0, -1))
    return np.linalg.norm(places - grid.to_mm(ijk), axis=-1) <= radius_mm


def _peak_by_brute_force(volume, centres_ijk):
    """Largest mean over a fine lattice of points in a 12.4 mm sphere; a voxel is a box of one value."""
    line = np.arange(-6.3, 6.3, 0.3) + 0.1
    offsets = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    offsets = offsets[np.linalg.norm(offsets, axis=1) <= 6.2035]
    means = []
    for centre in centres_ijk:
        ijk = np.rint(volume.to_ijk(volume.to_mm(centre) + offsets)).astype(int)
        means.append(volume.data[tuple(ijk.T)].mean())
    return max(means)


def _values(table, name="mask"):
    return table[table.object == name].set_index("quantity").value


def test_peak_sphere_holds_one_millilitre():
    assert 4 / 3 * np.pi * PEAK_RADIUS_MM**3 == pytest.approx(1000.0)
    diameter_mm = 2 * PEAK_RADIUS_MM
    assert diameter_mm == pytest.approx(12.4, abs=0.01)


@pytest.mark.parametrize("spacing", [(4.07, 4.07, 3.0), (2.04, 2.04, 3.0), (1.0, 1.3, 0.7), (30.0, 30.0, 30.0)])
def test_peak_weights_sum_to_one_and_fill_the_spheres_share_of_each_voxel(spacing):
    affine = oblique(spacing)
    weights = peak_weights(affine)
    assert weights.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(weights, weights[::-1, ::-1, ::-1], atol=1e-12)  # mirror image of itself
    middle = tuple(size // 2 for size in weights.shape)
    if max(spacing) < 5:  # the centre voxel lies wholly inside: its weight is its volume in mL
        assert weights[middle] == pytest.approx(np.prod(spacing) / 1000.0, rel=0.01)
    else:
        assert weights.shape == (1, 1, 1)


@pytest.mark.parametrize("radius_mm", [8.0, 20.0])
def test_peak_of_a_noisy_sphere_agrees_with_brute_force(radius_mm):
    rng = np.random.default_rng(11)
    mask = _ball(radius_mm)
    volume = Volume(np.where(mask, 8.0, 1.0) * rng.uniform(0.8, 1.2, SHAPE), AFFINE, "SUVbw")
    expected = _peak_by_brute_force(volume, np.argwhere(mask))
    assert _values(quantify(volume, mask)).SUVpeak == pytest.approx(expected, rel=0.01)
    hottest = np.argwhere(mask & (volume.data == volume.data[mask].max()))
    expected = _peak_by_brute_force(volume, hottest)
    assert _values(quantify(volume, mask, peak="local")).SUVpeak == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("spacing", "shape"), [
    ((4.07, 4.07, 3.0), (8, 7, 9)), ((2.0, 5.0, 1.6), (8, 7, 9)),
    ((2.0, 2.6, 1.6), (3, 2, 5)), ((1.2, 5.0, 1.6), (1, 7, 4)),  # smaller than the sphere
])  # fmt: skip
def test_peak_is_the_largest_weighted_sum_over_every_centre(spacing, shape):
    """Sums one by one, with the sphere's part outside the scan left out, on grids that it leaves on all sides."""
    volume = Volume(np.random.default_rng(3).gamma(2.0, 2.0, shape), oblique(spacing, left_handed=True), "SUVbw")
    weights = peak_weights(volume.affine)
    half = np.array(weights.shape) // 2
    means = np.empty(shape)
    for centre in np.ndindex(shape):
        total = weight = 0.0
        for at in np.ndindex(weights.shape):
            voxel = tuple(np.array(centre) + at - half)
            if all(0 <= one < size for one, size in zip(voxel, shape, strict=True)):
                total += weights[at] * float(volume.data[voxel])
                weight += weights[at]
        means[centre] = total / weight
    for mask in (np.ones(shape, bool), np.random.default_rng(4).random(shape) < 0.1):
        assert _values(quantify(volume, mask)).SUVpeak == pytest.approx(means[mask].max(), rel=1e-9)


def test_the_peak_of_a_scan_smaller_than_the_sphere_takes_the_memory_of_that_scan():
    volume = Volume(np.random.default_rng(3).random((18, 18, 18)), oblique((0.2, 0.2, 0.2)), "SUVbw")
    quantify(volume, np.ones(volume.shape, bool))  # imports
    tracemalloc.start()
    try:
        values = _values(quantify(volume, np.ones(volume.shape, bool)))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert values.SUVpeak == pytest.approx(values.SUVmean, rel=1e-6)  # every sphere that is centred here holds it all
    assert peak_bytes < 50e6  # 27 MB; with all 63 voxels across the sphere 103 MB


def test_large_uniform_sphere_has_one_suv():
    mask = _ball(25.0)
    volume = Volume(np.where(mask, 6.5, 0.5), AFFINE, "SUVbw")
    values = _values(quantify(volume, mask))
    for quantity in ("SUVmax", "SUVmean", "SUVpeak"):
        assert values[quantity] == pytest.approx(6.5, rel=1e-5)
    volume_ml = mask.sum() * 4.07 * 4.07 * 3.0 / 1000.0
    assert values["MTV"] == pytest.approx(volume_ml, rel=1e-9)
    assert values["TLG"] == pytest.approx(volume_ml * 6.5, rel=1e-6)


def test_peak_in_a_linear_gradient_is_the_value_at_the_best_centre():
    """A symmetric sphere averages a ramp to its centre's value."""
    ramp = 20.0 + np.moveaxis(np.indices(SHAPE), 0, -1) @ (0.3, -0.2, 0.5)
    volume, mask = Volume(ramp, AFFINE, "SUVbw"), _ball(15.0)
    assert _values(quantify(volume, mask)).SUVpeak == pytest.approx(ramp[mask].max(), rel=1e-5)


def test_two_hot_regions_distinguish_global_from_local_peak():
    data = np.ones(SHAPE)
    data[5, 5, 5] = 30.0  # one hot voxel
    wide = _ball(12.0, centre=(15, 14, 17))
    data[wide] = 20.0
    mask = wide.copy()
    mask[5, 5, 5] = True
    volume = Volume(data, AFFINE, "SUVbw")
    # 30 in the 0.0497 mL of one voxel, 1 in the rest of the millilitre
    local = 1.0 + 29.0 * 4.07 * 4.07 * 3.0 / 1000.0
    assert _values(quantify(volume, mask, peak="local")).SUVpeak == pytest.approx(local, rel=0.01)
    assert _values(quantify(volume, mask)).SUVpeak == pytest.approx(20.0, rel=0.01)


def test_sphere_beyond_the_scan_is_averaged_over_its_part_inside():
    volume = Volume(np.full(SHAPE, 3.0), AFFINE, "SUVbw")
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, -1] = True
    assert _values(quantify(volume, mask)).SUVpeak == pytest.approx(3.0, rel=1e-9)


def test_label_map_named_masks_and_single_masks_agree():
    volume = Volume(np.random.default_rng(2).uniform(0, 9, SHAPE), AFFINE, "SUVbw", source="scan 7")
    liver, lesion = _ball(20.0), _ball(9.0, centre=(4, 5, 20))
    labels = liver.astype(np.int16) + 5 * (lesion & ~liver)
    by_label = quantify(volume, labels, names={1: "liver", 5: "lesion", 9: "spleen"})
    by_name = quantify(volume, {"liver": liver, "lesion": lesion & ~liver})
    assert list(by_label.columns) == ["object", "quantity", "value", "unit", "definition", "source"]
    for name in ("liver", "lesion"):
        assert _values(by_label, name).to_dict() == _values(by_name, name).to_dict()
    assert _values(by_label, "liver").to_dict() == _values(quantify(volume, liver)).to_dict()
    assert set(quantify(volume, labels).object) == {"label 1", "label 5"}
    assert set(by_label.source) == {"scan 7"}
    units = by_label[by_label.object == "liver"].set_index("quantity").unit.to_dict()
    assert units == {"SUVmax": "g/mL", "SUVmean": "g/mL", "SUVpeak": "g/mL", "MTV": "mL", "TLG": "g"}
    assert _values(by_label, "spleen")[["MTV", "TLG"]].tolist() == [0.0, 0.0]


def test_empty_mask_has_no_volume_and_no_suv():
    volume = Volume(np.ones(SHAPE), AFFINE, "SUVbw")
    for rule in (None, "SUV>=4", "41% SUVmax"):
        values = _values(quantify(volume, np.zeros(SHAPE, bool), threshold=rule))
        assert np.isnan(values[["SUVmax", "SUVmean", "SUVpeak"]]).all()
        assert (values["MTV"], values["TLG"]) == (0.0, 0.0)
    assert len(quantify(volume, np.zeros(SHAPE, np.uint8))) == 0  # a label map without labels: no objects


def test_thresholds_keep_what_their_definition_says():
    data = np.zeros(SHAPE)
    data[10, 10, 10:15] = (10.0, 4.2, 4.05, 4.0, 3.9)
    data[3, 3, 3] = 99.0  # outside the mask: must not move the 41 %
    mask = np.zeros(SHAPE, bool)
    mask[10, 10, 9:16] = True
    volume = Volume(data, AFFINE, "SUVbw")
    assert threshold_mask(volume, mask, "SUV>=4").sum() == 4
    assert threshold_mask(volume, mask, "41% SUVmax").sum() == 2
    voxel_ml = 4.07 * 4.07 * 3.0 / 1000.0
    table = quantify(volume, mask, threshold="41% SUVmax")
    assert _values(table)["MTV"] == pytest.approx(2 * voxel_ml)
    assert _values(table)["TLG"] == pytest.approx(14.2 * voxel_ml)
    assert table.definition.str.contains("41 %").all()


def test_a_threshold_of_ones_own_narrows_the_mask_and_says_why():
    data = np.zeros(SHAPE)
    data[10, 10, 10:15] = (10.0, 4.2, 2.5, 2.4, 2.6)
    volume, mask = Volume(data, AFFINE, "SUVbw"), np.ones(SHAPE, bool)
    rule = Threshold(2.5, "half of the spleen")
    assert threshold_mask(volume, mask, rule).sum() == 4
    table = quantify(volume, mask, threshold=rule)
    assert _values(table)["MTV"] == pytest.approx(4 * 4.07 * 4.07 * 3.0 / 1000.0)
    assert table.definition.str.contains(r"SUVbw >= 2\.5 \(half of the spleen\)").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("nan"), "why"), "SUVbw nan; expected a finite number"),
        (("4", "why"), "SUVbw '4'; expected a finite number"),
        ((4.0, " "), "without a meaning"),
    ],
)
def test_a_threshold_needs_a_number_and_a_meaning(arguments, message):
    with pytest.raises(VolumeError, match=message):
        Threshold(*arguments)


# ---- SUL

PERSON = {"weight_kg": 80.0, "height_m": 1.60, "sex": "F"}  # BMI 31.25
LEAN_KG = {"janmahasatian": 9270 * 80 / (8780 + 244 * 31.25), "james": 1.07 * 80 - 148 * 0.5**2}


def test_suls_are_suvs_times_lean_mass_over_weight_and_say_so():
    volume = Volume(np.random.default_rng(5).uniform(0, 9, SHAPE), AFFINE, "SUVbw", metadata=PERSON)
    mask = _ball(14.0)
    plain, table = quantify(volume, mask), quantify(volume, mask, sul=("james", "janmahasatian", "james"))
    assert table[:5].equals(plain)
    assert len(table) == 5 + 2 * 3
    values = _values(table)
    for formula, lean_kg in LEAN_KG.items():
        for kind in ("max", "mean", "peak"):
            assert values[f"SUL{kind}_{formula}"] == pytest.approx(values[f"SUV{kind}"] * lean_kg / 80.0, rel=1e-12)
        rows = table[table.quantity.str.endswith(formula)]
        assert set(rows.unit) == {"g/mL"}
        assert rows.definition.str.contains(f"{formula}'s lean body mass {lean_kg:.2f} kg").all()
    assert _values(quantify(volume, mask, sul="james"))["SULmax_james"] == values["SULmax_james"]


def test_sul_of_an_empty_mask_is_not_a_number():
    volume = Volume(np.ones(SHAPE), AFFINE, "SUVbw", metadata=PERSON)
    values = _values(quantify(volume, np.zeros(SHAPE, bool), sul="james"))
    assert np.isnan(values[["SULmax_james", "SULmean_james", "SULpeak_james"]]).all()


def test_sul_of_a_real_scan_is_that_of_the_workstation(real_data):
    """The scanner's own real world value mapping: SUVbw 0.00042111, SUL 0.00032444 per Bq/mL, of five digits."""
    volume = load_dicom(real_data / "acrin042" / "PET_AC")
    values = _values(quantify(volume, volume.data > 5.0, sul="james"))
    for kind in ("max", "mean", "peak"):
        assert values[f"SUL{kind}_james"] / values[f"SUV{kind}"] == pytest.approx(0.00032444 / 0.00042111, rel=3e-5)


def test_phantoms_know_their_lean_mass():
    metadata = make_phantom(1).pet.metadata
    assert 1.4 < metadata["height_m"] < 2.1
    assert 0.5 < sul_factor(make_phantom(1).pet) < 0.95


@pytest.mark.parametrize(
    ("missing", "tag"), [("weight_kg", "0010,1030"), ("height_m", "0010,1020"), ("sex", "0010,0040")]
)
def test_sul_without_the_person_names_scan_and_header_and_its_advice_works(missing, tag):
    known = {key: value for key, value in PERSON.items() if key != missing}
    volume = Volume(np.ones(SHAPE), AFFINE, "SUVbw", source="scan 9", metadata=known)
    with pytest.raises(SUVError, match=rf"scan 9: .*{missing} is None.*\({tag}\).*dataclasses\.replace"):
        quantify(volume, _ball(9.0), sul="janmahasatian")
    told = replace(volume, metadata={**volume.metadata, missing: PERSON[missing]})
    assert sul_factor(told) == pytest.approx(LEAN_KG["janmahasatian"] / 80.0, rel=1e-12)


@pytest.mark.parametrize(
    ("person", "formula", "message"),
    [
        ({"weight_kg": "80"}, "james", "scan 9: weight_kg in its metadata is '80'"),
        ({"height_m": float("nan")}, "james", "scan 9: height_m in its metadata is nan"),
        ({"height_m": 160.0}, "james", "scan 9: .*metres"),
        ({"sex": "O"}, "james", "scan 9: .*'O'"),
        ({}, "hume", "scan 9: .*unknown formula 'hume'"),
    ],
)
def test_sul_of_an_impossible_person_or_formula_is_refused(person, formula, message):
    volume = Volume(np.ones(SHAPE), AFFINE, "SUVbw", source="scan 9", metadata={**PERSON, **person})
    with pytest.raises(SUVError, match=message) as caught:
        quantify(volume, _ball(9.0), sul=formula)
    assert "dataclasses.replace" not in str(caught.value)


# ---- refusals

@pytest.mark.parametrize("unit", ["Bq/mL", "HU"])
def test_other_units_are_refused_with_the_way_out(unit):
    volume = Volume(np.ones(SHAPE), AFFINE, unit, source="scan 8")
    for call in (lambda: quantify(volume, _ball(9.0)), lambda: threshold_mask(volume, _ball(9.0), "41% SUVmax")):
        with pytest.raises(UnitError, match=f"scan 8 is in {unit}.*load_dicom"):
            call()


@pytest.mark.parametrize(
    ("mask", "arguments", "error", "message"),
    [
        (np.ones((3, 4, 5), bool), {}, GeometryError, "shape \\(3, 4, 5\\).*Resample"),
        (np.ones((3, 4, 5), int), {}, GeometryError, "shape \\(3, 4, 5\\).*Resample"),
        (np.ones(SHAPE, np.float32), {}, VolumeError, "float32.*logits > 0"),
        ({"liver": np.ones(SHAPE, int)}, {}, VolumeError, "mask 'liver' is int64"),
        (np.full(SHAPE, -1), {}, VolumeError, "integers from 0 to 32767"),
        (np.ones(SHAPE, bool), {"threshold": "fifty"}, VolumeError, "unknown threshold rule 'fifty'.*'41% SUVmax'"),
        (np.ones(SHAPE, bool), {"peak": "middle"}, VolumeError, "'global' or 'local'"),
    ],
)
def test_bad_masks_and_options_are_named(mask, arguments, error, message):
    with pytest.raises(error, match=message):
        quantify(Volume(np.ones(SHAPE), AFFINE, "SUVbw"), mask, **arguments)
