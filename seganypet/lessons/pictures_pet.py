"""Sliders on PET itself: SUV, blur, thresholds, outlines, labels. Each function returns an `Explorer`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import ndimage

from seganypet.errors import SUVError
from seganypet.lessons.explorer import Explorer
from seganypet.metrics import dice
from seganypet.organs import ORGANS
from seganypet.pet.suv import lean_body_mass
from seganypet.pet.views import COLOURS, ijk_to_ras, ras_spacing, to_ras
from seganypet.pet.volume import Volume
from seganypet.phantom.annotators import ANNOTATORS, MAX_SEVERITY, annotate
from seganypet.phantom.scan import PhantomCase
from seganypet.regions import CONNECTED_26, bounding_box, widen_box

HALF_LIFE_MIN = 109.77  # of fluorine-18
DARKEST_SUV = 7.0
# What a slip makes of the factor between Bq/mL and SUV, from the minutes waited.
SLIPS: dict[str, Callable[[float], float]] = {
    "none": lambda minutes: 1.0,
    "decay forgotten": lambda minutes: 2 ** (-minutes / HALF_LIFE_MIN),
    "clock one hour late": lambda minutes: 2 ** (-60 / HALF_LIFE_MIN),
    "weight in pounds": lambda minutes: 2.2046,
    "dose before the residue was measured (8 % too high)": lambda minutes: 1 / 1.08,
}


def suv_calculator() -> Explorer:
    """Dose, weight, delay and a slip of whoever typed them, to the SUV of a voxel."""

    def draw(figure: Figure, kbq_per_ml: float = 9.0, weight_kg: float = 70.0, dose_mbq: float = 300.0,
             minutes: float = 60.0, slip: str = "decay forgotten") -> str:  # fmt: skip
        left_mbq = dose_mbq * 2 ** (-minutes / HALF_LIFE_MIN)
        suv = kbq_per_ml * weight_kg / left_mbq
        wrong = suv * SLIPS[slip](minutes)
        ax = figure.subplots()
        ax.axvspan(1.5, 3.5, color=COLOURS[2], alpha=0.2, label="most livers")
        ax.barh(["as written down", "right"], [wrong, suv], color=[COLOURS[0], COLOURS[1]])
        ax.set(xlabel="SUVbw, g/mL", xlim=(0, max(10, 1.1 * max(suv, wrong))))
        ax.legend(loc="right")
        change = f"as written down {wrong:.2f} ({wrong / suv - 1:+.0%})"
        return f"{left_mbq:.0f} of {dose_mbq:.0f} MBq are left; SUV {suv:.2f}, {change}"

    controls = {"kbq_per_ml": (1.0, 60.0, 0.5), "weight_kg": (30.0, 150.0, 1.0), "dose_mbq": (100.0, 600.0, 5.0),
                "minutes": (0.0, 180.0, 5.0), "slip": list(SLIPS)}  # fmt: skip
    words = {"kbq_per_ml": "kBq/mL", "weight_kg": "weight, kg", "dose_mbq": "dose, MBq"}
    return Explorer(draw, controls, (9, 2.4), words, {"left": 0.16, "bottom": 0.25})


def lean_mass() -> Explorer:
    """Weight, height and sex, to the factor from SUVbw to SUL by two formulas."""
    weights = np.arange(40, 201, 4.0)

    def draw(figure: Figure, weight_kg: float = 80.0, height_m: float = 1.7, sex: str = "F", suv: float = 2.4) -> str:
        ax = figure.subplots()
        said = []
        for formula, colour in zip(("janmahasatian", "james"), COLOURS, strict=False):
            shares = [_lean_share(one, height_m, sex, formula) for one in (*weights, weight_kg)]
            ax.plot(weights, shares[:-1], color=colour, label=formula)
            ax.plot(weight_kg, shares[-1], "o", color=colour)
            said.append(f"{formula}: " + ("no SUL" if np.isnan(shares[-1]) else f"SUL {suv * shares[-1]:.2f}"))
        ax.set(xlabel="weight, kg", ylabel="lean body mass / weight", ylim=(0, 1.05))
        ax.legend()
        return f"SUVbw {suv:.1f} is " + "; ".join(said)

    controls = {
        "weight_kg": (40.0, 200.0, 1.0),
        "height_m": (1.4, 2.0, 0.01),
        "sex": ["F", "M"],
        "suv": (0.5, 10.0, 0.1),
    }
    return Explorer(draw, controls, (7, 3), {"weight_kg": "weight, kg", "height_m": "height, m", "suv": "SUVbw"})


def _lean_share(weight_kg: float, height_m: float, sex: str, formula: str) -> float:
    """Lean body mass over weight; NaN for people so heavy that the formula gives nothing above 0."""
    try:
        return lean_body_mass(weight_kg, height_m, sex, formula) / weight_kg
    except SUVError:
        return np.nan


def grey_scale(volume: Volume) -> Explorer:
    """What the darkest grey stands for decides what is seen: a coronal slice or the projection of a PET."""
    data, spacing = to_ras(volume.data, volume), ras_spacing(volume)

    def draw(
        figure: Figure, darkest_suv: float = 7.0, slice_number: int = data.shape[1] // 2, projection: bool = True
    ) -> str:
        shown = data.max(1) if projection else data[:, slice_number]
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.imshow(
            shown[::-1].T, origin="lower", cmap="gray_r", vmin=0, vmax=darkest_suv, aspect=spacing[2] / spacing[0]
        )
        ax.set_axis_off()
        return f"black from SUV {darkest_suv:g} on: {(shown >= darkest_suv).mean():.1%} of the picture"

    controls = {"darkest_suv": (0.5, 30.0, 0.5), "slice_number": (0, data.shape[1] - 1, 1), "projection": True}
    return Explorer(draw, controls, (3.4, 5.6), {"darkest_suv": "darkest SUV", "slice_number": "slice"})


def hot_ball() -> Explorer:
    """A ball of SUV 8 in a background of 1: blurred, noisy, measured by a threshold."""
    axis_mm = np.arange(-30.0, 31.0)
    from_centre_mm = np.sqrt(axis_mm[:, None, None] ** 2 + axis_mm[:, None] ** 2 + axis_mm**2).astype(np.float32)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=from_centre_mm.shape).astype(np.float32), 2)
    noise /= noise.std()
    limits = {"41 % of max": lambda hottest: 0.41 * hottest, "50 % of max": lambda hottest: 0.5 * hottest,
              "SUV 4": lambda _: 4.0, "SUV 2.5": lambda _: 2.5}  # fmt: skip
    middle = len(axis_mm) // 2

    def draw(figure: Figure, diameter_mm: float = 13.0, blur_mm: float = 6.0, noise_percent: float = 0.0,
             rule: str = "41 % of max") -> str:  # fmt: skip
        ball = np.where(from_centre_mm < diameter_mm / 2, 8.0, 1.0).astype(np.float32)
        seen = ndimage.gaussian_filter(ball, blur_mm / 2.355, truncate=3) if blur_mm else ball
        seen = seen * (1 + noise_percent / 100 * noise)
        hottest, true_ml = float(seen[from_centre_mm < 20].max()), (ball > 4).sum() / 1000
        volumes_ml = {
            name: (seen[from_centre_mm < 25] >= limit(hottest)).sum() / 1000 for name, limit in limits.items()
        }
        picture, profile, bars = figure.subplots(1, 3)
        picture.imshow(seen[:, :, middle], cmap="gray_r", vmin=0, vmax=8, extent=(-30, 30, -30, 30))
        picture.contour(axis_mm, axis_mm[::-1], seen[:, :, middle], [limits[rule](hottest)], colors=COLOURS[0])
        picture.set(xlabel="mm", title="found by the rule")
        profile.plot(axis_mm, ball[:, middle, middle], color="grey", label="true")
        profile.plot(axis_mm, seen[:, middle, middle], color=COLOURS[1], label="measured")
        profile.axhline(limits[rule](hottest), color=COLOURS[0], linestyle="--", label=rule)
        profile.set(xlabel="mm", ylabel="SUV, g/mL", ylim=(0, 10))
        profile.legend(fontsize=8)
        bars.barh(list(volumes_ml), [one / true_ml for one in volumes_ml.values()], color=COLOURS[0])
        bars.axvline(1, color="black")
        bars.set(xlabel="volume found / true", xlim=(0, 4))
        return f"SUVmax {hottest:.2f} instead of 8; {rule}: {volumes_ml[rule]:.2f} mL instead of {true_ml:.2f} mL"

    controls = {
        "diameter_mm": (6.0, 40.0, 1.0),
        "blur_mm": (0.0, 12.0, 0.5),
        "noise_percent": (0.0, 30.0, 1.0),
        "rule": list(limits),
    }
    words = {"diameter_mm": "diameter, mm", "blur_mm": "blur (FWHM), mm", "noise_percent": "noise, %"}
    return Explorer(draw, controls, (10.5, 3.2), words, {"wspace": 0.45})


def threshold_on(volume: Volume, seed_ijk: tuple[int, int, int], truth: np.ndarray) -> Explorer:
    """Grow a region from a click by a percentage of the maximum around it, or by an SUV.

    Args:
        volume: PET in SUVbw.
        seed_ijk: The click.
        truth: What should be found, bool.
    """
    box = _box_around(volume, seed_ijk, truth, 60.0)
    data, known = volume.data[box], truth[box]
    seed = tuple(index - part.start for index, part in zip(seed_ijk, box, strict=True))
    peak = float(data[_near(data.shape, seed, volume, 15.0)].max())

    def grown(limit: float) -> np.ndarray:
        pieces, _ = ndimage.label(data >= limit, CONNECTED_26)
        return (pieces == pieces[seed]) & (data >= limit)

    shares = np.arange(10, 96, 5)
    scores = [dice(grown(share / 100 * peak), known) for share in shares]

    def draw(figure: Figure, percent: float = 41.0) -> str:
        mask = grown(percent / 100 * peak)
        picture, curve = figure.subplots(1, 2)
        _coronal(picture, volume, seed_ijk, 140.0, {"truth": truth, "found": _whole(mask, box, volume.shape)})
        curve.plot(shares, scores, color=COLOURS[1])
        curve.axvline(percent, color=COLOURS[0], linestyle="--")
        curve.set(xlabel=f"threshold, % of {peak:.1f} g/mL", ylabel="DSC to the truth", ylim=(0, 1))
        return (f"SUV {percent / 100 * peak:.2f} and more: {mask.sum() * volume.voxel_volume_ml:.1f} mL of "
                f"{truth.sum() * volume.voxel_volume_ml:.1f} mL, DSC {dice(mask, known):.2f}")  # fmt: skip

    return Explorer(draw, {"percent": (10.0, 95.0, 1.0)}, (9, 3.6), {"percent": "threshold, % of the maximum nearby"})


def outline_shift(volume: Volume, truth: np.ndarray, name: str) -> Explorer:
    """Move an outline in or out by millimetres, and see which numbers mind."""
    box = widen_box(bounding_box(truth), tuple(int(np.ceil(12 / mm)) for mm in volume.spacing), truth.shape)
    known, data = truth[box], volume.data[box]
    outside_mm = ndimage.distance_transform_edt(~known, volume.spacing)
    inside_mm = ndimage.distance_transform_edt(known, volume.spacing)
    half_mm = min(volume.spacing) / 2  # from a voxel's centre to the outline beside it
    signed_mm = np.where(known, half_mm - inside_mm, outside_mm - half_mm)
    centre = _centre(truth)
    steps = np.arange(-8.0, 8.5, 1.0)

    def measured(shift_mm: float) -> tuple[np.ndarray, dict[str, float]]:
        part = np.clip(0.5 - (signed_mm - shift_mm) / (2 * half_mm), 0, 1)  # of each voxel that lies inside
        mask = part > 0.5
        if not mask.any():
            return mask, {"volume": -100.0, "SUVmean": np.nan, "SUVmax": np.nan, "DSC": 0.0}
        change = {"volume": part.sum() / known.sum(), "SUVmean": np.average(data, weights=part) / data[known].mean(),
                  "SUVmax": data[mask].max() / data[known].max()}  # fmt: skip
        shared = 2 * part[known].sum() / (part.sum() + known.sum())
        return mask, {key: 100 * (value - 1) for key, value in change.items()} | {"DSC": shared}

    curves = [measured(step)[1] for step in steps]

    def draw(figure: Figure, shift_mm: float = 2.0) -> str:
        mask, numbers = measured(shift_mm)
        picture, curve = figure.subplots(1, 2)
        _coronal(picture, volume, centre, 220.0, {"truth": truth, "moved": _whole(mask, box, volume.shape)})
        for key, colour in zip(("volume", "SUVmean", "SUVmax"), COLOURS, strict=False):
            curve.plot(steps, [one[key] for one in curves], color=colour, label=key)
        curve.axvline(shift_mm, color="black", linestyle="--")
        curve.set(xlabel="outline moved outwards, mm", ylabel="change, %", ylim=(-100, 150))
        curve.legend(fontsize=8)
        changes = ", ".join(f"{key} {numbers[key]:+.0f} %" for key in ("volume", "SUVmean", "SUVmax"))
        return f"{name}: {changes}; DSC {numbers['DSC']:.2f}"

    return Explorer(draw, {"shift_mm": (-8.0, 8.0, 1.0)}, (9, 3.6), {"shift_mm": "outwards, mm"})


def annotator(case: PhantomCase, organ: str = "liver") -> Explorer:
    """Who draws an organ and how badly: the label, its DSC, and what becomes of the numbers."""
    organs = [name for label, name in case.organ_names.items() if (case.organs == label).any()]

    def draw(figure: Figure, organ: str = organ, kind: str = "boundary", severity: float = 2.0, person: int = 0) -> str:
        truth = case.organs == ORGANS.index(organ) + 1
        label = annotate(case, organ, kind, severity, np.random.default_rng(person))
        picture, bars = figure.subplots(1, 2)
        centre = _centre(truth)
        _coronal(picture, case.pet, centre, 300.0, {"truth": truth, "label": label})
        names = ["volume", "SUVmean", "SUVmax"]
        if not label.any():
            return f"{kind} forgot the {organ}"
        ratios = [
            label.sum() / truth.sum(),
            *(how(case.pet.data[label]) / how(case.pet.data[truth]) for how in (np.mean, np.max)),
        ]
        bars.barh(names, [100 * (one - 1) for one in ratios], color=COLOURS[0])
        bars.axvline(0, color="black", linewidth=0.8)
        bars.set(xlabel="change by the label, %", xlim=(-60, 60))
        return f"{organ} by {kind}: DSC {dice(label, truth):.2f}"

    controls = {
        "organ": organs,
        "kind": list(ANNOTATORS),
        "severity": (0.0, float(MAX_SEVERITY), 0.25),
        "person": (0, 9, 1),
    }
    return Explorer(draw, controls, (9, 3.6), margins={"wspace": 0.35})


# ---- what the drawings share


def _coronal(ax: Axes, volume: Volume, at_ijk: tuple[int, ...], field_mm: float, masks: dict[str, np.ndarray]) -> None:
    """A coronal slice around a voxel, with outlines; the patient's right on the left."""
    at, spacing = ijk_to_ras(at_ijk, volume), ras_spacing(volume)
    parts = []
    for axis in (0, 2):
        reach = int(np.ceil(field_mm / 2 / spacing[axis]))
        parts.append(slice(max(at[axis] - reach, 0), at[axis] + reach + 1))
    across, up = parts

    def cut(data: np.ndarray) -> np.ndarray:
        return to_ras(data, volume)[across, at[1], up][::-1].T

    shown = cut(volume.data)
    extent = (0, shown.shape[1] * spacing[0], 0, shown.shape[0] * spacing[2])
    ax.imshow(shown, origin="lower", cmap="gray_r", vmin=0, vmax=DARKEST_SUV, extent=extent)
    for (name, mask), colour in zip(masks.items(), (COLOURS[1], COLOURS[0]), strict=False):
        outline = cut(mask)
        ax.plot([], [], color=colour, label=name)
        if outline.any():
            ax.contour(outline, [0.5], colors=colour, extent=extent, origin="lower", linewidths=1.4)
    ax.set(xlabel="mm, the patient's left on the right")
    ax.legend(fontsize=8, loc="upper right")


def _centre(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(np.rint(np.argwhere(mask).mean(axis=0)).astype(int).tolist())


def _box_around(volume: Volume, at_ijk: tuple[int, ...], mask: np.ndarray, reach_mm: float) -> tuple[slice, ...]:
    """Box that holds a mask and a neighbourhood of a voxel."""
    reach = [int(np.ceil(reach_mm / mm)) for mm in volume.spacing]
    around = [slice(max(at - n, 0), at + n + 1) for at, n in zip(at_ijk, reach, strict=True)]
    return tuple(
        slice(min(one.start, other.start), min(max(one.stop, other.stop), size))
        for one, other, size in zip(around, bounding_box(mask), volume.shape, strict=True)
    )


def _near(shape: tuple[int, ...], at: tuple[int, ...], volume: Volume, radius_mm: float) -> np.ndarray:
    offsets = [(np.arange(size) - here) * mm for size, here, mm in zip(shape, at, volume.spacing, strict=True)]
    squares: Any = sum(np.square(one) for one in np.meshgrid(*offsets, indexing="ij", sparse=True))
    return squares <= radius_mm**2


def _whole(mask: np.ndarray, box: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
    whole = np.zeros(shape, bool)
    whole[box] = mask
    return whole
