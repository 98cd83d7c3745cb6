"""Scattered lesions: lymphoma-like nodes, a lung primary with nodes, melanoma-like metastases, disseminated disease."""

import numpy as np
from scipy import ndimage

from seganypet.phantom.canvas import Canvas, smooth_field
from seganypet.phantom.patient import ID, TISSUES, Patient

COMMON_KINDS = ("lymphoma", "lung", "melanoma")  # three in four patients have one of them, unless a kind is given
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
_LUNGS = [label for name, label in ID.items() if name.startswith("lung_")]
_NODE_TISSUE = [ID[name] for name in ("fat", "muscle", "mediastinum", "vessels", "small_bowel", "pancreas", "glands")]


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

    Lesions are uneven inside; about half of those above 15 mL have a cold core. "disseminated" is the heavy tail of
    lymphoma: 20 to 45 lesions, some in spleen, liver or marrow, one against the bladder's wall and one against the
    heart (where these are in the field of view), so that physiological uptake and disease touch.

    Source: counts, volumes and SUVmax as published for lymphoma, lung cancer and melanoma, where
    found; the rest is our inference.
    """
    instances = np.zeros(canvas.labels.shape, np.uint8)
    scale = np.array(patient.scale)
    # One patient's lesions resemble each other: most of the spread in uptake is between patients.
    between = np.exp(rng.normal(0, 0.4))
    plan: list[tuple] = []  # (centre mm, volume mL, SUVmax, tissues that may be replaced)

    def node(station: list[tuple[int, int, int]], sd_mm: float) -> np.ndarray:
        """A position near one of a station's nodes, mm."""
        return (np.array(station[rng.integers(len(station))]) + rng.normal(0, sd_mm, 3)) * scale

    if kind == "lymphoma":
        n = int(np.clip(1 + rng.negative_binomial(1.4, 0.16), 1, 25))
        names = list(rng.permutation(list(_STATIONS)))[: int(rng.integers(1, 5))]
        for _ in range(n):
            if rng.random() < 0.08:
                organ = rng.choice(["spleen", "marrow"])
                plan.append((_random_position(canvas, [ID[organ]], rng), (3, 1.0), 10, [ID[organ]]))
            else:
                station = _STATIONS[names[rng.integers(len(names))]]
                plan.append((node(station, 13), (4, 1.2), 11, _NODE_TISSUE))
    elif kind == "lung":
        side = int(rng.choice((-1, 1)))
        ipsilateral = [label for label in _LUNGS if TISSUES[label].endswith("right" if side > 0 else "left")]
        plan.append((_random_position(canvas, ipsilateral, rng), (15, 1.1), 11, [*_LUNGS, ID["mediastinum"]]))
        for _ in range(int(rng.integers(0, 7))):
            station = [*_STATIONS["mediastinum"], _STATIONS["hilum"][0 if side > 0 else 1]]
            plan.append((node(station, 7), (2, 0.9), 6, [*_NODE_TISSUE, *_LUNGS]))
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 7))):
                organ = rng.choice(["marrow", "liver"])
                plan.append((_random_position(canvas, [ID[organ]], rng), (2.5, 0.9), 7, [ID[organ]]))
    elif kind == "disseminated":
        heart = [ID["myocardium"], ID["heart_blood"]]
        for organ, tissues in (([ID["bladder"]], _NODE_TISSUE), (heart, [*_NODE_TISSUE, *_LUNGS])):
            plan.append((_beside(canvas, organ, tissues, rng), (8, 0.5), 10, tissues))
        for _ in range(int(rng.integers(18, 44))):
            if rng.random() < 0.25:
                organ = rng.choice(["spleen", "liver", "marrow", "marrow"])
                plan.append((_random_position(canvas, [ID[organ]], rng), (3, 1.0), 9, [ID[organ]]))
            else:
                station = list(_STATIONS.values())[rng.integers(len(_STATIONS))]
                plan.append((node(station, 16), (4, 1.3), 11, _NODE_TISSUE))
    else:
        targets = {"lungs": _LUNGS, "liver": [ID["liver"]], "marrow": [ID["marrow"]], "fat": [ID["fat"]],
                   "muscle": [ID["muscle"]], "bowel": [ID["small_bowel"], ID["fat"]]}  # fmt: skip
        for _ in range(int(np.clip(1 + rng.negative_binomial(0.9, 0.15), 1, 25))):
            if rng.random() < 0.35:
                station = list(_STATIONS.values())[rng.integers(len(_STATIONS))]
                plan.append((node(station, 10), (2, 1.1), 9, _NODE_TISSUE))
            else:
                tissue = list(targets)[rng.integers(len(targets))]
                plan.append((_random_position(canvas, targets[tissue], rng), (1.5, 1.1), 10, targets[tissue]))
    for centre, (volume_ml, log_sd), suv, tissues in plan:
        volume = float(np.clip(volume_ml * np.exp(rng.normal(0, log_sd)), 0.35, 350))
        peak = float(np.clip(suv * between * np.exp(rng.normal(0, 0.35)), 3.0, 45))
        if centre is not None:
            _paint_one(canvas, activity, instances, centre, volume, peak, tissues, rng)
    while not instances.any():  # all fell outside the field of view or into organs that have none
        centre = _random_position(canvas, _NODE_TISSUE, rng)
        _paint_one(canvas, activity, instances, centre, 3.0, 8.0 * between, _NODE_TISSUE, rng)
    return _renumber(instances)


def _random_position(canvas: Canvas, tissues: list[int], rng: np.random.Generator) -> np.ndarray | None:
    """Position (mm) of a random voxel of the tissues; None if the field of view holds hardly any."""
    for _ in range(4):
        ijk = np.stack([rng.integers(0, size, 40000) for size in canvas.labels.shape])
        found = np.flatnonzero(np.isin(canvas.labels[tuple(ijk)], tissues))
        if len(found):
            i, j, k = ijk[:, found[0]]
            return np.array((canvas.x[i], canvas.y[j], canvas.z[k]), float)
    return None


def _beside(canvas: Canvas, organ: list[int], tissues: list[int], rng: np.random.Generator) -> np.ndarray | None:
    """A random position (mm) in the tissues, 3 to 9 mm from an organ; None if the field of view holds no organ."""
    found = ndimage.find_objects(np.isin(canvas.labels, organ).astype(np.uint8))
    if not found:
        return None
    low, high = (np.array([getattr(part, end) for part in found[0]]) for end in ("start", "stop"))
    box = tuple(slice(max(a - 6, 0), b + 6) for a, b in zip(low, high, strict=True))
    spacing = [axis[1] - axis[0] for axis in (canvas.x, canvas.y, canvas.z)]
    away_mm = ndimage.distance_transform_edt(~np.isin(canvas.labels[box], organ), sampling=spacing)
    near = np.argwhere((away_mm >= 3) & (away_mm <= 9) & np.isin(canvas.labels[box], tissues))
    if not len(near):
        return None
    i, j, k = near[rng.integers(len(near))] + [part.start for part in box]
    return np.array((canvas.x[i], canvas.y[j], canvas.z[k]), float)


def _paint_one(canvas, activity, instances, centre, volume_ml, peak, tissues, rng) -> None:
    """One lesion: a warped union of blobs of a given volume, inside the tissues it may replace."""
    radius = (volume_ml * 1000 * 0.75 / np.pi) ** (1 / 3)
    reach = 1.9 * radius + 4
    lo, hi = centre - reach, centre + reach
    box = canvas.box(lo, hi)
    axes = canvas.axes(box)
    n_blobs = int(rng.integers(1, 3 + int(volume_ml > 5) * 2))
    offsets, stretch = rng.normal(0, 0.45, (n_blobs, 3)), rng.uniform(0.75, 1.3, (n_blobs, 3))
    field = smooth_field(rng, axes, lo, hi, max(0.7 * radius, 5))
    grain = smooth_field(rng, axes, lo, hi, max(0.35 * radius, 4))
    necrotic = volume_ml > 15 and rng.random() < 0.45
    within = float(rng.uniform(0.18, 0.42))
    if 0 in field.shape:
        return
    x, y, z = (axis - c for axis, c in zip(canvas.mesh(box), centre, strict=True))
    level: np.ndarray = np.full(field.shape, 9, np.float32)
    for offset, size in zip(offsets * radius, stretch * radius, strict=True):
        np.minimum(level, sum(((p - o) / s) ** 2 for p, o, s in zip((x, y, z), offset, size, strict=True)), out=level)
    level = np.sqrt(level) + 0.16 * field
    sizes_mm = [axis[1] - axis[0] if len(axis) > 1 else 3.0 for axis in axes]
    voxel_ml = float(np.prod(sizes_mm)) / 1000
    n = max(int(round(volume_ml / voxel_ml)), 1)
    free = np.isin(canvas.labels[box], tissues) & (instances[box] == 0)
    level[~free] = 99
    order = np.partition(level.ravel(), min(n, level.size - 1))[min(n, level.size - 1)]
    mask = (level < order) & free
    parts, count = ndimage.label(mask)
    if not count:
        return
    sizes = np.bincount(parts.ravel())[1:]
    mask = parts == 1 + int(sizes.argmax())
    found_ml = float(mask.sum()) * voxel_ml
    if found_ml < 0.3:
        return
    # Recovery: small hot spots lose height to the resolution; SUVmax is that of the image.
    diameter = 2 * (found_ml * 1000 * 0.75 / np.pi) ** (1 / 3)
    recovery = float(np.interp(diameter, (6, 10, 13, 17, 22, 28), (0.22, 0.4, 0.6, 0.78, 0.92, 1.0)))
    hot = np.clip(1 + within * grain, 0.35, 1.8)
    hot *= min(peak / recovery, 70) / float(np.percentile(hot[mask], 97))
    if necrotic:
        core = ndimage.distance_transform_edt(mask, sizes_mm)
        pale = 1 / (1 + np.exp(-(core + 2 * field - 0.45 * core.max()) / 2.5))
        hot *= 1 - (1 - rng.uniform(0.15, 0.35)) * pale
    instances[box][mask] = min(int(instances.max()) + 1, 255)
    background = float(np.median(activity[box][mask]))
    activity[box][mask] = np.maximum(hot[mask], 0.6 * hot[mask] + 1.3 * background if not necrotic else 0)


def _renumber(instances: np.ndarray) -> np.ndarray:
    """Labels 1..n without gaps."""
    table = np.zeros(256, np.uint8)
    present = [label for label, box in enumerate(ndimage.find_objects(instances), start=1) if box]
    table[present] = np.arange(1, len(present) + 1)
    return table[instances]
