"""Phantoms: sizes, places and uptakes as published, and images as their imaging says."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import REPOSITORY
from scipy import ndimage, stats

from seganypet.cohort.cohort import Cohort
from seganypet.errors import SegAnyPETError
from seganypet.organs import ORGANS, SEEN_ORGANS, UNSEEN_ORGANS
from seganypet.phantom.canvas import Canvas, smooth_field
from seganypet.phantom.imaging import acquire, breathe, draw_imaging
from seganypet.phantom.lesions import COMMON_KINDS, draw_kind
from seganypet.phantom.patient import ID, TISSUES, draw_patient
from seganypet.phantom.scan import DOMAINS, _draw, make_phantom

SAMPLES = REPOSITORY / "data_samples"


@pytest.fixture(scope="module")
def population():
    """Fifty lesion-free patients from vertex to thigh, both domains in turn, on a coarse grid (7 mm)."""
    return [
        _draw(seed, ("internal", "external")[seed % 2], False, spacing=(7.0, 7.0, 7.0), whole_body=True)
        for seed in range(50)
    ]


@pytest.fixture(scope="module")
def internal():
    return make_phantom(7, "internal", lesions="lymphoma")


@pytest.fixture(scope="module")
def external():
    return make_phantom(7, "external", lesions="melanoma")


def organ(case, name):
    return case.organs == 1 + ORGANS.index(name)


def tissue(case, name):
    return case.anatomy == ID[name]


def centre_mm(case, mask):
    """Centre of a mask, RAS+ mm."""
    return case.pet.to_mm(ndimage.center_of_mass(mask))


# Volumes in mL, P1 and P99 of 912 scans with both sexes pooled; lungs and aorta: what their sources allow.
RANGES_ML = {
    "liver": (923, 2998), "kidney_left": (70, 289), "kidney_right": (66, 284), "spleen": (50, 810),
    "heart": (379, 1084), "aorta": (110, 400),
}  # fmt: skip


@pytest.mark.parametrize("name", RANGES_ML)
def test_every_organ_volume_is_one_that_scans_have(population, name):
    low, high = RANGES_ML[name]
    for case in population:
        sex = 1.1 if case.sex == "M" else 0.9
        volume_ml = organ(case, name).sum() * case.pet.voxel_volume_ml
        assert low * sex <= volume_ml <= high * sex, f"{case.pet.source}, {case.sex}"


@pytest.mark.parametrize(
    ("name", "published_ml"),
    [("liver", 1641), ("kidney_left", 166), ("kidney_right", 162), ("heart", 623), ("spleen", 256)],
)
def test_mean_organ_volume_is_within_15_percent_of_the_published_one(population, name, published_ml):
    mean_ml = np.mean([organ(case, name).sum() * case.pet.voxel_volume_ml for case in population])
    assert mean_ml == pytest.approx(published_ml, rel=0.15)


def test_lungs_hold_what_free_breathing_leaves_and_split_as_lobes_do(population):
    lobes = [name for name in ORGANS if name.startswith("lung")]
    volumes = np.array([[organ(c, name).sum() * c.pet.voxel_volume_ml for name in lobes] for c in population])
    assert volumes.sum(1).min() >= 1500 and volumes.sum(1).max() <= 5000
    # Percent of the lung, order of ORGANS: left lower, right lower, left upper, right upper, middle.
    share = 100 * (volumes / volumes.sum(1, keepdims=True)).mean(0)
    assert share == pytest.approx([23.2, 26.5, 23.1, 17.9, 9.3], abs=3)


def test_only_men_have_a_prostate_and_only_women_a_uterus(population):
    assert {case.sex for case in population} == {"M", "F"}
    for case in population:
        assert organ(case, "prostate").any() == (case.sex == "M")
        assert tissue(case, "uterus").any() == (case.sex == "F")


def test_organs_lie_where_they_belong_in_grids_of_either_hand(population):
    hands = {np.sign(np.linalg.det(case.pet.affine)) for case in population}
    assert hands == {-1.0, 1.0}
    for case in population:
        present = np.unique(case.organs)[1:]
        centres = case.pet.to_mm(ndimage.center_of_mass(case.organs > 0, case.organs, present))
        at = {case.organ_names[label]: centre for label, centre in zip(present, centres, strict=True)}
        spine, brain, bladder = (centre_mm(case, tissue(case, name)) for name in ("disc", "brain_white", "bladder"))
        # x grows to the patient's right, y to the front, z to the head.
        for right in ("liver", "kidney_right", "lung_lower_lobe_right", "lung_middle_lobe_right"):
            assert at[right][0] > spine[0] + 20, f"{case.pet.source}: {right}"
        for left in ("spleen", "kidney_left", "heart", "lung_lower_lobe_left", "lung_upper_lobe_left"):
            assert at[left][0] < spine[0] - 10, f"{case.pet.source}: {left}"
        assert brain[2] > at["heart"][2] > at["liver"][2] > at["kidney_right"][2] > bladder[2]
        assert at["heart"][1] > spine[1] and bladder[1] > spine[1]
        assert at["lung_upper_lobe_left"][2] > at["lung_lower_lobe_left"][2]
        for front in ("upper", "middle"):
            assert at[f"lung_{front}_lobe_right"][1] > at["lung_lower_lobe_right"][1]


def test_liver_dome_is_the_top_of_the_liver_and_under_the_heart(population):
    for case in population:
        top = {name: case.pet.to_mm(np.argwhere(organ(case, name)))[:, 2].max() for name in ("liver", "heart")}
        bottom = case.pet.to_mm(np.argwhere(organ(case, "heart")))[:, 2].min()
        assert top["heart"] > top["liver"] + 50 and bottom > top["liver"] - 60


def test_uptake_is_that_of_healthy_people(population):
    """Means, or medians, of 80 people; ours are patients, so they spread wider."""
    suv = {name: np.array([np.mean(case.pet.data[organ(case, name)]) for case in population]) for name in ORGANS
           if name != "prostate"}  # fmt: skip
    livers = suv["liver"]
    assert livers.min() > 1.2 and livers.max() < 3.8
    assert livers.mean() == pytest.approx(2.29, rel=0.1)
    assert np.mean(suv["aorta"]) == pytest.approx(1.99, rel=0.1)
    assert np.mean(suv["spleen"]) == pytest.approx(1.80, rel=0.1)
    for name in ("kidney_left", "kidney_right"):
        assert np.mean(suv[name]) == pytest.approx(3.2, rel=0.12)
        assert np.median(suv[name] / livers) == pytest.approx(1.42, abs=0.12)  # 1.31 in health, 1.5 to 1.8 elsewhere
    assert np.median(suv["heart"]) == pytest.approx(2.45, rel=0.15)
    for name in ("lung_upper_lobe_left", "lung_upper_lobe_right"):
        assert np.mean(suv[name]) == pytest.approx(0.70, rel=0.15)
    bladder = [case.pet.data[tissue(case, "bladder")].mean() for case in population]
    assert np.median(bladder) == pytest.approx(22.9, rel=0.25)
    brain = [case.pet.data[np.isin(case.anatomy, [ID[n] for n in ("brain_grey", "brain_white", "cerebellum")])].mean()
             for case in population]  # fmt: skip
    assert np.mean(brain) == pytest.approx(7.0, rel=0.12)


def test_organs_move_together_and_bowel_by_itself():
    drawn = [draw_patient(np.random.default_rng(seed)).suv for seed in range(600)]
    liver = [suv["liver"] for suv in drawn]
    for other, published in (("aorta", 0.83), ("spleen", 0.69), ("muscle", 0.44), ("small_bowel", 0), ("colon", 0)):
        assert stats.spearmanr(liver, [suv[other] for suv in drawn]).statistic == pytest.approx(published, abs=0.1)


def test_myocardium_is_dark_patchy_or_bright_as_often_as_published(population):
    ratio = np.array([
        np.percentile(case.pet.data[organ(case, "heart")], 90) / np.median(case.pet.data[organ(case, "liver")])
        for case in population
    ])  # fmt: skip
    # 43, 27, 30 %; 50 patients: two standard errors are 14 points.
    assert np.mean(ratio < 1.5) == pytest.approx(0.43, abs=0.14)
    assert np.mean((ratio >= 1.5) & (ratio < 3)) == pytest.approx(0.27, abs=0.14)
    assert np.mean(ratio >= 3) == pytest.approx(0.30, abs=0.14)


def test_liver_noise_lies_where_scanners_leave_it(internal, external):
    for case in (internal, external):
        liver = ndimage.binary_erosion(organ(case, "liver"), iterations=2)
        assert 0.1 < case.pet.data[liver].std() / case.pet.data[liver].mean() < 0.34
    rng = np.random.default_rng(0)
    for domain in DOMAINS:  # the texture of the liver adds little: 0.14 to 0.24 is published
        assert np.median([draw_imaging(rng, domain).noise_fraction for _ in range(99)]) == pytest.approx(0.19, abs=0.03)


def test_same_seed_gives_the_same_bits_and_another_domain_another_patient(internal, external):
    again = make_phantom(7, "internal", lesions="lymphoma")
    assert again.pet.fingerprint() == internal.pet.fingerprint()
    assert again.ct.fingerprint() == internal.ct.fingerprint()
    for name in ("organs", "lesions", "anatomy"):
        assert np.array_equal(getattr(again, name), getattr(internal, name))
    assert external.pet.metadata["weight_kg"] != internal.pet.metadata["weight_kg"]


def test_lesions_change_neither_patient_nor_grid(internal):
    clean = make_phantom(7, "internal", lesions=False)
    assert not clean.lesions.any() and internal.lesions.any()
    assert np.array_equal(clean.organs, internal.organs)
    # Far from every lesion the two scans differ by nothing: the noise is the same draw.
    far = ~ndimage.maximum_filter(internal.lesions > 0, size=31)  # 15 voxels, 45 mm or more, from any
    assert np.allclose(clean.pet.data[far], internal.pet.data[far], atol=1e-4)


def test_each_domain_has_its_own_grid_and_resolution(internal, external):
    assert internal.pet.spacing == pytest.approx((4.07, 4.07, 3.0))
    assert external.pet.spacing == pytest.approx((2.04, 2.04, 3.0))
    for case in (internal, external):
        assert case.pet.unit == "SUVbw" and case.ct.unit == "HU"
        assert np.array_equal(case.pet.affine, case.ct.affine)
        assert {case.pet.shape} == {case.ct.shape, case.organs.shape, case.lesions.shape, case.anatomy.shape}
    rng = np.random.default_rng(0)
    widths = {domain: [draw_imaging(rng, domain).fwhm_mm for _ in range(50)] for domain in DOMAINS}
    assert min(widths["internal"]) >= 5.0 and max(widths["external"]) <= 6.0
    assert np.mean(widths["internal"]) > np.mean(widths["external"]) + 0.8


def test_organs_are_the_sum_of_their_tissues(internal):
    assert SEEN_ORGANS + UNSEEN_ORGANS == ORGANS and len(ORGANS) == 12
    assert internal.organ_names == dict(enumerate(ORGANS, start=1))
    assert internal.anatomy_names[ID["bladder"]] == "bladder" and len(internal.anatomy_names) == len(TISSUES)
    heart = tissue(internal, "myocardium") | tissue(internal, "heart_blood")
    assert np.array_equal(heart, organ(internal, "heart"))


def test_air_is_empty_and_nothing_is_negative(internal, external):
    for case in (internal, external):
        reach = [2 * int(np.ceil(15 / size)) + 1 for size in case.pet.spacing]  # 15 mm off the body
        air = ~ndimage.maximum_filter(case.anatomy > 0, size=reach)
        assert case.pet.data.min() >= 0
        assert case.pet.data[air].mean() < 0.02
        assert np.median(case.ct.data[air]) == pytest.approx(-1000, abs=5)


def test_some_scanners_leave_nothing_at_all_in_part_of_the_air(internal):
    rng = np.random.default_rng(0)
    fractions = [draw_imaging(rng, "internal").air_zero_fraction for _ in range(60)]
    assert 0.3 < np.mean(np.array(fractions) > 0) < 0.7
    canvas = Canvas(*(4.0 * np.arange(30),) * 3)
    for fraction in (0.0, 0.4):
        imaging = replace(draw_imaging(rng, "internal"), air_zero_fraction=fraction)
        air = acquire(np.zeros((30, 30, 30), np.float32), canvas, (4.0, 4.0, 4.0), imaging, 2.0, rng)
        assert (air == 0).mean() == pytest.approx(fraction, abs=0.03)


def test_ct_tells_lung_fat_liver_and_bone_apart(internal):
    hu = {name: np.median(internal.ct.data[tissue(internal, name)])
          for name in ("lung_upper_lobe_left", "fat", "liver", "cortical_bone")}  # fmt: skip
    assert -900 < hu["lung_upper_lobe_left"] < -600 and -120 < hu["fat"] < -40
    assert 40 < hu["liver"] < 130 and hu["cortical_bone"] > 250


def test_lesions_are_numbered_hot_and_inside_the_body(internal, external):
    for case in (internal, external):
        labels = np.unique(case.lesions)
        assert np.array_equal(labels, np.arange(labels.size)) and labels.size > 1
        assert not case.lesions[case.anatomy == 0].any()
        hottest = [case.pet.data[case.lesions == label].max() for label in labels[1:]]
        assert min(hottest) > 1.5 and max(hottest) < 60
        sizes_ml = np.bincount(case.lesions.ravel())[1:] * case.pet.voxel_volume_ml
        assert sizes_ml.min() > 0.25


def test_some_patients_have_lesions_and_some_have_none():
    counts = [_draw(seed, "internal", True, spacing=(8.0, 8.0, 8.0)).lesions.max() for seed in range(16)]
    assert any(count == 0 for count in counts) and any(count > 3 for count in counts)


@pytest.mark.parametrize("arguments", [{"domain": "pets-5k"}, {"lesions": "sarcoma"}, {"seed": -1}, {"seed": 1.5}])
def test_unknown_arguments_are_refused_by_name(arguments):
    (name, value), = arguments.items()
    with pytest.raises(SegAnyPETError, match=f"{name}={value!r}".replace(".", r"\.")):
        make_phantom(**arguments)


def test_a_case_takes_seconds_on_the_finest_grid_too():
    start = time.process_time()
    make_phantom(1, "external")
    assert time.process_time() - start < 10


def test_breathing_keeps_activity_and_mean_position():
    z = np.arange(-200, 250, 3.0)
    slab = np.zeros((1, 1, len(z)), np.float32)
    slab[..., (z > -70) & (z < -20)] = 1
    blurred = breathe(slab.copy(), z, dome_mm=15)
    assert blurred.sum() == pytest.approx(slab.sum(), rel=0.02)
    assert (blurred * z).sum() / blurred.sum() == pytest.approx((slab * z).sum() / slab.sum(), abs=1.0)
    assert blurred.max() <= 1.001 and (blurred > 0.01).sum() > (slab > 0).sum() + 2


def test_a_point_is_blurred_to_the_drawn_resolution():
    rng = np.random.default_rng(3)
    spacing = (2.04, 2.04, 3.0)
    axes = [size * (np.arange(33) - 16) for size in spacing]
    canvas = Canvas(axes[0], axes[1], axes[2] + 300)  # the head does not breathe
    imaging = replace(draw_imaging(rng, "external"), noise_fraction=0.0, air_suv=0.0)
    point = np.zeros((33, 33, 33), np.float32)
    point[16, 16, 16] = 1000
    blurred = acquire(point, canvas, spacing, imaging, 2.0, rng)
    for axis, place in enumerate(axes):
        profile = blurred.sum(tuple({0, 1, 2} - {axis}))
        sd_mm = np.sqrt((profile * place**2).sum() / profile.sum())
        assert 2.3548 * sd_mm == pytest.approx(imaging.fwhm_mm, rel=0.06)


def test_shapes_are_the_same_on_every_grid():
    lo, hi = (-40, -40, -40), (40, 40, 40)
    fine = [np.arange(-40, 41, 2.0), np.arange(-40, 41, 2.0), np.arange(-40, 41, 5.0)]
    coarse = [axis[::2] for axis in fine]
    one = smooth_field(np.random.default_rng(5), fine, lo, hi, 20)
    two = smooth_field(np.random.default_rng(5), coarse, lo, hi, 20)
    assert np.allclose(one[::2, ::2, ::2], two, atol=1e-5)


def test_samples_are_the_phantoms_of_their_seeds():
    cohort = Cohort.from_csv(SAMPLES / "cohort.csv")
    assert len(cohort) == 3
    assert sum(file.stat().st_size for file in SAMPLES.rglob("*.nii.gz")) < 12e6
    case = cohort["phantom_internal_9000"]
    pet = case.load_pet()
    phantom = make_phantom(9000, "internal")
    start = np.rint(phantom.pet.to_ijk(pet.to_mm((0, 0, 0)))).astype(int)
    box = tuple(slice(low, low + size) for low, size in zip(start, pet.shape, strict=True))
    assert np.abs(pet.data - phantom.pet.data[box]).max() <= 0.0101  # half of a step of 0.02 SUV
    masks = dict(case.targets(pet))
    assert np.array_equal(masks["liver"], organ(phantom, "liver")[box])
    assert masks["lesions"].sum() == (phantom.lesions > 0).sum()
    assert case.load_ct().shape == pet.shape


# ---- disseminated disease

@pytest.fixture(scope="module")
def disseminated():
    return make_phantom(401, "internal", lesions="disseminated")


def test_disseminated_disease_is_many_lesions_of_all_sizes_uneven_inside(disseminated):
    number = int(disseminated.lesions.max())
    assert 20 <= number <= 45
    sizes_ml = np.bincount(disseminated.lesions.ravel())[1:] * disseminated.pet.voxel_volume_ml
    assert sizes_ml.min() < 2 and sizes_ml.max() > 15 and 1.5 < np.median(sizes_ml) < 10
    uptake = [disseminated.pet.data[disseminated.lesions == label] for label in range(1, number + 1)]
    assert 0.1 < np.median([inside.std() / inside.mean() for inside in uptake]) < 0.6


def test_some_of_it_touches_what_is_hot_in_health(disseminated):
    ids = {name: label for label, name in disseminated.anatomy_names.items()}
    lesions = disseminated.lesions > 0
    for organ in (["bladder"], ["myocardium", "heart_blood"]):
        hot = np.isin(disseminated.anatomy, [ids[name] for name in organ]) & ~lesions
        beside = ndimage.binary_dilation(hot, iterations=2) & lesions  # 6 to 8 mm
        assert beside.any(), organ


def test_three_in_four_patients_are_ill_a_minority_with_large_masses_and_disseminated_only_when_asked_for():
    kinds = [draw_kind(np.random.default_rng(seed)) for seed in range(800)]
    assert set(kinds) == {"none", *COMMON_KINDS} and "disseminated" not in COMMON_KINDS
    assert np.mean([kind == "none" for kind in kinds]) == pytest.approx(0.25, abs=0.05)
    assert 0.15 < np.mean([kind in ("bulky", "infiltrating") for kind in kinds]) < 0.3


def test_importing_the_wing_loads_no_painter_and_still_offers_its_names():
    offered = "DOMAINS, ORGANS, PhantomCase, SEEN_ORGANS, UNSEEN_ORGANS, make_phantom"
    code = "import sys, seganypet.phantom as wing; print('scipy' in sys.modules); "
    code += f"from seganypet.phantom import {offered}; print(dir(wing) == '{offered}'.split(', '))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_bulky_disease_is_one_mass_far_larger_than_a_node():
    cases = [_draw(seed, "internal", "bulky", spacing=(8.0, 8.0, 8.0)) for seed in range(4)]
    sizes_ml = [np.bincount(case.lesions.ravel())[1:] * case.pet.voxel_volume_ml for case in cases]
    assert min(sizes.max() for sizes in sizes_ml) > 40 and max(sizes.max() for sizes in sizes_ml) > 150
    assert all((sizes > 40).sum() == 1 for sizes in sizes_ml)
