"""Where disease lies and how large and hot it is: six kinds, drawn lesion by lesion; `tumour` paints each."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

from seganypet.phantom.canvas import Canvas
from seganypet.phantom.patient import ID, TISSUES, Patient
from seganypet.phantom.tumour import Lesion, paint_lesion

_SCATTERED, _LARGE = ("lymphoma", "lung", "melanoma"), ("bulky", "infiltrating")
COMMON_KINDS = (*_SCATTERED, *_LARGE)  # that patients have unless a kind is asked for, see draw_kind
KINDS = (*COMMON_KINDS, "disseminated")

# Where nodes lie in the reference man, mm.
_STATIONS = {
    "neck": [(38, 22, 215), (-38, 22, 215), (42, 20, 245), (-42, 20, 245)],
    "supraclavicular": [(52, 30, 168), (-52, 30, 168)],
    "axilla": [(140, 25, 105), (-140, 25, 105)],
    "mediastinum": [(14, 30, 100), (-22, 40, 92), (4, 15, 70), (20, 62, 105)],
    "hilum": [(36, 20, 66), (-40, 18, 62)],
    "retroperitoneum": [(-24, 24, -150), (-22, 26, -190), (26, 24, -170), (8, 36, -205)],
    "mesentery": [(10, 70, -190), (-20, 75, -220)],
    "iliac": [(52, 25, -320), (-52, 25, -320), (60, 38, -350)],
    "groin": [(72, 78, -420), (-72, 78, -420)],
}
# Where large masses grow, on one side or the other, what they replace there, and the most that there is room for, mL.
_MASSES = {
    "thigh": ((90, 8, -500), ("muscle", "fat"), 2000), "buttock": ((92, -48, -345), ("muscle", "fat"), 900),
    "shoulder": ((140, -8, 118), ("muscle", "fat"), 700),
    "chest wall": ((142, 30, 40), ("muscle", "fat", "lung"), 900),
    "pelvis": ((40, 20, -345), ("muscle", "fat", "small_bowel", "colon", "vessels"), 1500),
    "retroperitoneum": ((50, 20, -190), ("muscle", "fat", "small_bowel", "colon", "vessels", "pancreas"), 2000),
    "mediastinum": ((8, 62, 95), ("mediastinum", "vessels", "fat", "lung"), 900),
    "lung": ((70, 30, 70), ("lung", "mediastinum"), 900),
    "neck": ((44, 18, 225), ("muscle", "fat", "vessels", "glands"), 150),
}  # fmt: skip
_HOT_ORGANS = {"bladder": ("bladder",), "kidney": ("kidney_left_cortex", "kidney_right_cortex"),
               "heart": ("myocardium", "heart_blood"), "brain": ("brain_grey", "cerebellum"), "liver": ("liver",)}
_LUNGS = [label for name, label in ID.items() if name.startswith("lung_")]
_NODE_TISSUE = [ID[name] for name in ("fat", "muscle", "mediastinum", "vessels", "small_bowel", "pancreas", "glands")]
_BESIDE = [*_NODE_TISSUE, *_LUNGS, ID["cortical_bone"]]


def draw_kind(rng: np.random.Generator) -> str:
    """What a patient has: one in four "none", the others one of COMMON_KINDS, three in ten of them a large one."""
    kind = ("none", *_SCATTERED)[int(rng.integers(4))]
    if kind != "none" and rng.integers(10) < 3:
        kind = _LARGE[int(rng.integers(2))]
    return kind


def paint_lesions(
    canvas: Canvas, activity: np.ndarray, patient: Patient, kind: str, rng: np.random.Generator
) -> np.ndarray:
    """Paint lesions of one kind into `activity`, in place.

    Args:
        canvas: Label map that is painted already; it stays as it is.
        activity: Uptake (SUVbw) before imaging, shape of the canvas.
        patient: The patient, whose size scales positions.
        kind: Kind of disease, one of KINDS.
        rng: Source of random numbers.

    Returns:
        Label map of the instances, 1 to n, 0 elsewhere, uint8.

    "bulky" is one mass of 60 to 2000 mL in a limb, the trunk or the neck, like a sarcoma or a large lymphoma;
    "infiltrating" one to three lesions of up to 600 mL that grow between organs, through muscle and fat.
    "disseminated" is the heavy tail of lymphoma: 20 to 45 lesions, some in spleen, liver or marrow, one against the
    bladder's wall and one against the heart (where these are in the field of view). In the other kinds one patient in
    four has a lesion beside an organ that is hot in health.

    Source: counts, volumes and SUVmax as published for lymphoma, lung cancer and melanoma, where found; sizes and
    cold cores of 51 soft-tissue sarcomas; the rest is our inference.
    """
    instances = np.zeros(canvas.labels.shape, np.uint8)
    # One patient's lesions resemble each other: most of the spread in uptake is between patients.
    between = np.exp(rng.normal(0, 0.4))
    count = 0
    for lesion in _plan(canvas, np.array(patient.scale), kind, between, rng):
        count += paint_lesion(canvas, activity, instances, min(count + 1, 255), lesion, rng)
    while not count:  # all fell outside the field of view or into organs that have none
        centre = _random_position(canvas, _NODE_TISSUE, rng)
        if centre is not None:
            count += paint_lesion(canvas, activity, instances, 1, Lesion(centre, 3, 8 * between, _NODE_TISSUE), rng)
    return instances


def _plan(
    canvas: Canvas, scale: np.ndarray, kind: str, between: float, rng: np.random.Generator
) -> Iterator[Lesion]:
    """The lesions of one kind, one after another."""

    def lesion(
        centre: np.ndarray | None, median_ml: float, log_sd: float, suv: float, over: list[int],
        infiltrating: bool = False,
    ) -> Iterator[Lesion]:  # fmt: skip
        volume_ml = float(np.clip(median_ml * np.exp(rng.normal(0, log_sd)), 0.5, 600 if infiltrating else 2000))
        suv_max = float(np.clip(suv * between * np.exp(rng.normal(0, 0.35)), 2.2, 45))
        if centre is not None:
            yield Lesion(centre, volume_ml, suv_max, over, infiltrating)

    def inside(tissue: str, median_ml: float, log_sd: float, suv: float) -> Iterator[Lesion]:
        over = _LUNGS if tissue == "lung" else [ID[tissue]]
        yield from lesion(_random_position(canvas, over, rng), median_ml, log_sd, suv, over)

    def node(station: list[tuple[int, int, int]], sd_mm: float) -> np.ndarray:
        """A position near one of a station's nodes, mm."""
        return (np.array(station[rng.integers(len(station))]) + rng.normal(0, sd_mm, 3)) * scale

    stations = list(_STATIONS.values())
    if kind in ("bulky", "infiltrating"):
        for number in range(1 if kind == "bulky" else int(rng.integers(1, 4))):
            centre, over, most_ml = _mass(canvas, scale, rng)
            if kind == "bulky":
                yield from lesion(centre, float(np.exp(rng.uniform(*np.log((60, most_ml))))), 0.0, 8, over)
            else:
                over = sorted({*over, ID["muscle"], ID["fat"], ID["mediastinum"]})
                yield from lesion(centre, 60 / (1 + number), 1.1, 6, over, True)
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 5))):
                yield from inside(str(rng.choice(["lung", "marrow", "liver"])), 2, 1.0, 6)
    elif kind == "lymphoma":
        chosen = [stations[n] for n in rng.permutation(len(stations))[: int(rng.integers(1, 5))]]
        for _ in range(int(np.clip(1 + rng.negative_binomial(1.4, 0.16), 1, 25))):
            if rng.random() < 0.08:
                yield from inside(str(rng.choice(["spleen", "marrow"])), 3, 1.0, 10)
            else:
                yield from lesion(node(chosen[rng.integers(len(chosen))], 13), 4, 1.3, 11, _NODE_TISSUE)
        if rng.random() < 0.4:  # nodes packed together
            centre = node(chosen[0], 6)
            for _ in range(int(rng.integers(3, 9))):
                yield from lesion(centre + rng.normal(0, 11, 3), 5, 0.8, 11, _NODE_TISSUE)
    elif kind == "lung":
        side = int(rng.choice((-1, 1)))
        ipsilateral = [label for label in _LUNGS if TISSUES[label].endswith("right" if side > 0 else "left")]
        position = _random_position(canvas, ipsilateral, rng)
        yield from lesion(position, 18, 1.3, 10, [*_LUNGS, ID["mediastinum"]], rng.random() < 0.15)
        for _ in range(int(rng.integers(0, 7))):
            station = [*_STATIONS["mediastinum"], _STATIONS["hilum"][0 if side > 0 else 1]]
            yield from lesion(node(station, 7), 2, 0.9, 6, [*_NODE_TISSUE, *_LUNGS])
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 7))):
                yield from inside(str(rng.choice(["marrow", "liver"])), 2.5, 0.9, 7)
    elif kind == "disseminated":
        for organ in ("bladder", "heart"):
            yield from lesion(_beside(canvas, _HOT_ORGANS[organ], rng), 8, 0.5, 10, _BESIDE)
        for _ in range(int(rng.integers(18, 44))):
            if rng.random() < 0.25:
                yield from inside(str(rng.choice(["spleen", "liver", "marrow", "marrow"])), 3, 1.0, 9)
            else:
                yield from lesion(node(stations[rng.integers(len(stations))], 16), 4, 1.3, 11, _NODE_TISSUE)
    else:
        for _ in range(int(np.clip(1 + rng.negative_binomial(0.9, 0.15), 1, 25))):
            if rng.random() < 0.35:
                yield from lesion(node(stations[rng.integers(len(stations))], 10), 2, 1.1, 9, _NODE_TISSUE)
            else:
                tissue = str(rng.choice(["lung", "liver", "marrow", "fat", "muscle", "small_bowel"]))
                yield from inside(tissue, 1.5, 1.1, 10)
    if kind != "disseminated" and rng.random() < 0.25:
        organ = str(rng.choice(list(_HOT_ORGANS)))
        yield from lesion(_beside(canvas, _HOT_ORGANS[organ], rng), 6, 1.0, 9, _BESIDE)


def _mass(canvas: Canvas, scale: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray | None, list[int], float]:
    """Where a mass grows (mm), what it may replace there and how large it may get (mL); None if nothing is in view."""
    names = list(_MASSES)
    for n in rng.permutation(len(names)):
        centre, tissues, most_ml = _MASSES[names[n]]
        over = [label for tissue in tissues for label in (_LUNGS if tissue == "lung" else [ID[tissue]])]
        centre_mm = (np.array(centre) * (rng.choice((-1, 1)), 1, 1) + rng.normal(0, 12, 3)) * scale
        if canvas.z[0] + 30 < centre_mm[2] < canvas.z[-1] - 30:
            return centre_mm, over, most_ml
    return None, [], 1000


def _random_position(canvas: Canvas, tissues: list[int], rng: np.random.Generator) -> np.ndarray | None:
    """Position (mm) of a random voxel of the tissues; None if the field of view holds hardly any."""
    for _ in range(4):
        ijk = np.stack([rng.integers(0, size, 40000) for size in canvas.labels.shape])
        found = np.flatnonzero(np.isin(canvas.labels[tuple(ijk)], tissues))
        if len(found):
            i, j, k = ijk[:, found[0]]
            return np.array((canvas.x[i], canvas.y[j], canvas.z[k]), float)
    return None


def _beside(canvas: Canvas, organ: Sequence[str], rng: np.random.Generator) -> np.ndarray | None:
    """A random position (mm), 3 to 9 mm from an organ; None if the field of view does not hold it."""
    table = np.zeros(256, np.uint8)
    table[[ID[tissue] for tissue in organ]] = 1
    found = ndimage.find_objects(table[canvas.labels])
    if not found:
        return None
    low, high = (np.array([getattr(part, end) for part in found[0]]) for end in ("start", "stop"))
    box = tuple(slice(max(a - 6, 0), b + 6) for a, b in zip(low, high, strict=True))
    spacing = [axis[1] - axis[0] for axis in (canvas.x, canvas.y, canvas.z)]
    away_mm = ndimage.distance_transform_edt(table[canvas.labels[box]] == 0, sampling=spacing)
    near = np.argwhere((away_mm >= 3) & (away_mm <= 9) & np.isin(canvas.labels[box], _BESIDE))
    if not len(near):
        return None
    i, j, k = near[rng.integers(len(near))] + [part.start for part in box]
    return np.array((canvas.x[i], canvas.y[j], canvas.z[k]), float)
