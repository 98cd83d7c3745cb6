"""Organs below the diaphragm, and the head: painted after body, bones and chest."""

import numpy as np

from seganypet.phantom.anatomy import Painter
from seganypet.phantom.canvas import Box, Canvas, curve, smooth_field
from seganypet.phantom.patient import ID

_SOFT = [ID[name] for name in ("fat", "muscle", "mediastinum", "small_bowel", "colon", "stomach_wall",
                               "stomach_content", "esophagus", "pancreas", "vessels", "gallbladder")]  # fmt: skip


def paint_soft_organs(painter: Painter) -> None:
    """Paint all soft organs; later ones cover earlier ones."""
    paint_bowel(painter)
    paint_upper_abdomen(painter)
    paint_pelvis(painter)
    paint_head_and_neck(painter)


def paint_bowel(painter: Painter) -> None:
    """Colon along its frame, loops of small bowel inside it, pancreas."""
    rng = painter.rng

    def j(sd: float = 6.0) -> float:
        return rng.normal(0, sd)

    inside = [ID["fat"], ID["muscle"]]
    colon = [(84 + j(), 26, -268), (94 + j(), 30, -215), (88 + j(), 46, -150), (50, 92 + j(), -150 + j(12)),
             (0, 104, -165 + j(18)), (-55, 92 + j(), -135 + j(12)), (-102, 24 + j(), -98), (-108 + j(), 14, -160),
             (-106 + j(), 18, -235), (-92, 30, -290), (-50 + j(), 28, -325), (10 + j(14), 18, -345),
             (-4, -12, -375), (0, -14, -420)]  # fmt: skip
    radii = painter.size * np.array([25, 24, 21, 17, 16, 17, 18, 15, 14, 13, 13, 14, 17, 13]) * rng.uniform(0.85, 1.1)
    # Haustra: the width changes from one to the next, and now and then a part is squeezed shut.
    along = np.interp(np.linspace(0, 1, 56), np.linspace(0, 1, len(radii)), radii)
    along *= np.clip(rng.normal(1, 0.14, 56) - 0.35 * (rng.random(56) < 0.08), 0.5, 1.3)
    painter.pipe("colon", colon, along, 56, inside, warp_mm=2.5)
    # Small bowel: a walk that turns often and is drawn back to the middle of the belly.
    centre, half = np.array((0, 62, -225.0)), np.array((76, 40, 78.0))
    position, heading, walk = centre + half * rng.uniform(-0.6, 0.6, 3), rng.normal(size=3), []
    for _ in range(185):
        heading = 0.72 * heading + 0.7 * rng.normal(size=3) - 0.55 * (position - centre) / half
        heading /= np.linalg.norm(heading)
        position = position + 17 * heading
        walk.append(position)
    painter.pipe("small_bowel", walk, 11.5 * painter.size * rng.uniform(0.7, 1.25, 93), 370, inside)
    painter.pipe("small_bowel", [(22, 66, -112), (42, 52, -128), (40, 44, -165), (0, 50, -178)], 12 * painter.size, 12,
                 inside)  # fmt: skip
    painter.pipe("pancreas", [(30, 58, -140), (8, 66, -122), (-35, 48, -108), (-72, 22, -92)], (14, 11, 10, 8), 10,
                 inside, warp_mm=1.5)


def paint_upper_abdomen(painter: Painter) -> None:
    """Stomach, liver with gallbladder, spleen, kidneys: inside the rib cage, under the diaphragm."""
    canvas, rng = painter.canvas, painter.rng
    sx, sy, sz = painter.scale
    volumes = painter.patient.volumes_ml
    volume_scale = float(np.prod(painter.scale))

    def under_roof(box: Box, level: np.ndarray) -> np.ndarray:
        """Cut a level by the diaphragm above and the chest wall around."""
        x, y, z = canvas.mesh(box)
        wall = (painter.thorax(x, y, z) - 0.99) * 100
        return np.maximum(np.maximum(level, z - painter.diaphragm(x, y)), np.where(z > -175 * sz, wall, -99))

    full = rng.uniform(0.35, 1.2)  # of food
    path = [(-66, 8, -22), (-74, 30, -55), (-62, 62, -95), (-25, 82, -128), (14, 70, -116)]
    radii = np.interp(np.linspace(0, 1, 18), (0, 0.3, 0.6, 0.85, 1), (36, 37, 30, 21, 13)) * painter.size * full**0.6
    box, level = canvas.tube(curve(np.array(path) * painter.scale, 18), radii, rng, 2.0)
    canvas.paint(box, under_roof(box, level), [(ID["stomach_wall"], 0), (ID["stomach_content"], rng.uniform(4, 9))],
                 _SOFT)

    # Liver: a large right lobe, a left lobe that tapers across the midline, and the hollow visceral face.
    factor = (volumes["liver"] / (1140 * volume_scale)) ** (1 / 3)
    lo, hi = painter.at(-85 * factor, -75 * factor, -200 * factor), painter.at(160, 165, 12)
    box = canvas.box(lo, hi)
    x, y, z = canvas.mesh(box)
    wavy = smooth_field(rng, canvas.axes(box), lo, hi, 45)
    # Grown about a point beneath the dome, so that the dome stays where the diaphragm is.
    gx, gy, gz = ((axis / s - c) / factor + c for axis, s, c in zip((x, y, z), (sx, sy, sz), (70, 50, 0), strict=True))
    long_lobe = rng.normal(0, 7)
    right = np.sqrt(((gx - 72) / 76) ** 2 + ((gy - 42) / 88) ** 2 + ((gz + 68) / (88 + long_lobe)) ** 2) - 1
    left_reach = rng.uniform(0.8, 1.22)
    left = np.sqrt(((gx - 8) / (72 * left_reach)) ** 2 + ((gy - 86) / 52) ** 2 + ((gz + 44) / 46) ** 2) - 1
    level = np.minimum(right * 80, left * 52)
    face = -0.62 * (gx - 66) - 0.34 * (gy - 40) - 0.72 * (gz + 104 + long_lobe)
    hollow = 62 - np.sqrt((gx + 8) ** 2 + (gy - 5) ** 2 + ((gz + 112) * 0.8) ** 2)
    face = face + 0.0028 * ((gx - 66) ** 2 + (gy - 60) ** 2) - 8 + 5 * wavy  # hollow, not flat, with rounded edges
    level = smooth_maximum(smooth_maximum(level, face, 7), hollow * 0.8, 7) * factor + 3.2 * wavy
    box, level = painter.lending(canvas, "liver", box, under_roof(box, level))
    keep = [*_SOFT, ID["kidney_right_cortex"]]
    canvas.paint(box, under_roof(box, level), [(ID["liver"], 0)], keep)
    painter.blob("gallbladder", (46, 78, -124), (13, 15, 28), 4, 1, [ID["fat"], ID["muscle"], ID["liver"], ID["colon"]],
                 factor=rng.uniform(0.6, 1.2))

    # Spleen: an ellipsoid along the ribs whose inner face is hollowed by stomach and kidney.
    factor = (volumes["spleen"] / (136 * volume_scale)) ** (1 / 3)
    centre = painter.at(-93, 6, -56, 3)
    slender = rng.normal(0, 0.12, 3)  # of the same volume
    half = np.array((31, 46, 49)) * np.exp(slender - slender.mean()) * painter.scale * factor
    centre[0] += 0.5 * (half[0] - 31 * sx)
    box, level = canvas.ellipsoid(centre, half, rng, 2.0, 32, shear_xz=rng.normal(0.12, 0.06))
    x, y, z = canvas.mesh(box)
    hollow = 30 * sx - np.sqrt((x + 46 * sx) ** 2 + ((y - 22 * sy) * 0.8) ** 2 + ((z - centre[2]) * 0.6) ** 2)
    box, level = painter.lending(canvas, "spleen", box, under_roof(box, np.maximum(level, hollow * 0.8)))
    canvas.paint(box, under_roof(box, level), [(ID["spleen"], 0)], _SOFT)

    for name, side, z_centre in (("left", -1, -128), ("right", 1, -133)):
        factor = (volumes[f"kidney_{name}"] / (168 * volume_scale)) ** (1 / 3)
        centre = painter.at(side * 68, -4, z_centre, 4)
        half = np.array((28, 28.5, 51)) * painter.scale * factor
        around = half + np.array((12, 8, 14))
        box, level = canvas.ellipsoid(centre, around)
        canvas.paint(box, level, [(ID["fat"], 0)], [ID["muscle"], ID["small_bowel"], ID["colon"], ID["pancreas"]])
        tilt = -side * rng.normal(0.16, 0.05)  # upper pole towards the spine
        box, level = canvas.ellipsoid(centre, half * 1.12, rng, 0.9, 18, shear_xz=tilt)
        u, v, w = _in_kidney(canvas, box, side, centre, half, tilt)
        bent = np.sqrt((u + 0.22 * w**2) ** 2 + v**2 + w**2)
        level = level + (bent - np.sqrt(u**2 + v**2 + w**2) + 0.12) * 36
        notch = (0.42 - np.sqrt((u + 1.12) ** 2 + (0.75 * v) ** 2 + (0.95 * w) ** 2)) * 28
        box, level = painter.lending(canvas, f"kidney_{name}", box, np.maximum(level, notch))
        u, v, w = _in_kidney(canvas, box, side, centre, half, tilt)
        # Collecting system: a sinus behind the notch with calyces reaching up and down.
        sinus = np.sqrt(((u + 0.48) / 0.34) ** 2 + (v / 0.34) ** 2 + (w / 0.42) ** 2) - 1
        calyx = rng.uniform(-0.2, 0.2, 2)
        for shift in (0.42 + calyx[0], -0.42 + calyx[1]):
            cup = np.sqrt(((u + 0.14) / 0.2) ** 2 + (v / 0.22) ** 2 + ((w - shift) / 0.19) ** 2) - 1
            sinus = np.minimum(sinus, cup)
        soft = [*_SOFT, ID["liver"], ID["spleen"], ID["marrow"]]
        canvas.paint(box, level, [(ID[f"kidney_{name}_cortex"], 0)], soft)
        canvas.paint(box, np.maximum(sinus * 15, level), [(ID[f"kidney_{name}_pelvis"], 0)],
                     [ID[f"kidney_{name}_cortex"]])
        ureter = [tuple(centre / painter.scale - (side * 14, 0, 12)), (side * 38, 16, -190),
                  (side * (36 + rng.normal(0, 4)), 24, -270), (side * 48, 12, -350), (side * 22, 24, -398)]
        painter.pipe("ureter", ureter, rng.uniform(1.5, 2.8), 24, [*_SOFT, ID["muscle"]])


def _in_kidney(
    canvas: Canvas, box: Box, side: int, centre: np.ndarray, half: np.ndarray, tilt: float
) -> tuple[np.ndarray, ...]:
    """Coordinates in a kidney: -1 medial to 1 lateral, -1 dorsal to 1 ventral, -1 its lower pole to 1 its upper."""
    x, y, z = canvas.mesh(box)
    u = side * (x - centre[0] - tilt * (z - centre[2])) / half[0]
    return u, (y - centre[1]) / half[1], (z - centre[2]) / half[2]


def paint_pelvis(painter: Painter) -> None:
    """Bladder on the pelvic floor, prostate below it or uterus behind."""
    volumes = painter.patient.volumes_ml
    volume_scale = float(np.prod(painter.scale))
    soft = [ID[name] for name in ("fat", "muscle", "small_bowel", "colon", "vessels")]
    factor = (volumes["bladder"] / (247 * volume_scale)) ** (1 / 3)
    flat = painter.rng.uniform(0.85, 1.1)
    half = np.array((41.5, 39.5, 36)) * (1, 1, flat) / np.sqrt((flat, flat, 1))
    painter.blob("bladder", (0, 48, -406 + half[2] * factor), half, 2, 1.5, soft, factor=factor)
    if painter.patient.sex == "M":
        factor = (volumes["prostate"] / (26 * volume_scale)) ** (1 / 3)
        half = np.array((20, 16.5, 19.5))
        painter.blob("prostate", (0, 34, -404 - half[2] * factor * 0.8), half, 1.5, 0.8, [*soft, ID["bladder"]],
                     factor=factor)
    else:
        painter.blob("uterus", (4, 14, -360), (24, 18, 32), 4, 1.5, [*soft, ID["bladder"]])


def paint_head_and_neck(painter: Painter) -> None:
    """Brain with cortex, skull, thyroid, salivary glands, pharynx."""
    canvas, rng = painter.canvas, painter.rng
    head = painter.scale * np.array(painter.size) ** -0.5  # heads vary little with weight
    if painter.patient.sex == "F":
        head = head * 0.97
    middle = np.array((0, 30, 0)) * head + (0, 0, 378 * painter.scale[2]) + rng.normal(0, 2, 3)

    def ball(offset, half, warp_mm=0.0):
        return canvas.ellipsoid(middle + np.array(offset) * head, np.array(half) * head, rng, warp_mm, 20.0)

    bone = [(ID["cortical_bone"], 0)]
    box, level = ball((0, -2, -4), (75, 93, 73), 0.5)
    base = middle[2] - 54 * head[2] - canvas.mesh(box)[2]  # below lies the face
    canvas.paint(box, np.maximum(level, base), bone)
    for offset, half, tissue in (((0, 52, -82), (26, 20, 14), "cortical_bone"), ((0, 66, -60), (20, 16, 16), "airway")):
        box, level = ball(offset, half, 1)
        canvas.paint(box, level, [(ID[tissue], 0)], [ID["muscle"], ID["fat"]])
    box, level = ball((0, 0, 0), (68, 86, 66), 0.8)
    x, y, z = canvas.mesh(box)
    lo, hi = middle - 110, middle + 110
    folds = smooth_field(rng, canvas.axes(box), lo, hi, 9)
    # The base of the brain: frontal lobes high, temporal lobes low, at either side.
    aside = np.exp(-(((np.abs(x - middle[0]) - 40 * head[0]) / 17) ** 2) - ((y - middle[1] + 2) / 34) ** 2)
    floor = (middle[2] - 30 * head[2] + 0.12 * (y - middle[1]) - 17 * aside - 4 * folds) - z
    level = np.maximum(level, floor * 0.9)
    fissure = 2.2 - np.abs(x - middle[0] + 0.8 * folds)
    outer = np.maximum(level, np.where(z > middle[2] - 5, fissure, -99))
    canvas.paint(box, level, [(ID["spinal_cord"], 0)], [ID["cortical_bone"], ID["muscle"]])
    cord = [ID["spinal_cord"]]
    canvas.paint(box, outer, [(ID["brain_grey"], 0)], cord)
    canvas.paint(box, outer + 9 + 4.5 * folds, [(ID["brain_white"], 0)], [ID["brain_grey"]])
    for side in (1, -1):
        for offset, half in (((side * 12, -8, -6), (9, 15, 10)), ((side * 22, 14, -6), (8, 19, 12))):
            deep, level = ball(offset, half, 1)
            canvas.paint(deep, level, [(ID["brain_grey"], 0)], [ID["brain_white"]])
        deep, level = ball((side * 8, -2, 10), (5, 32, 8))
        canvas.paint(deep, level, [(ID["spinal_cord"], 0)], [ID["brain_white"], ID["brain_grey"]])
        box, level = ball((side * 25, -42, -54), (29, 31, 22), 1.5)
        canvas.paint(box, level, [(ID["cerebellum"], 0)], [*cord, ID["cortical_bone"], ID["muscle"], ID["brain_grey"]])
    soft = [ID[name] for name in ("fat", "muscle", "mediastinum")]
    for side in (1, -1):
        painter.blob("thyroid", (side * 19, 36, 172), (9, 10, 22), 1.5, 1, soft)
        painter.blob("glands", (side * 50, 22, 278), (11, 18, 22), 2, 1.5, soft)
        painter.blob("glands", (side * 26, 50, 246), (10, 16, 11), 2, 1, soft)
        painter.blob("pharynx", (side * 15, 42, 262), (7, 9, 13), 1, 1, soft)
    painter.blob("pharynx", (0, 66, 268), (22, 26, 14), 2, 1.5, soft)


def smooth_maximum(a: np.ndarray, b: np.ndarray, width_mm: float) -> np.ndarray:
    """Maximum of two levels with the edge between them rounded over `width_mm`."""
    fraction = np.clip(0.5 + (a - b) / (2 * width_mm), 0, 1)
    return fraction * a + (1 - fraction) * b + width_mm * fraction * (1 - fraction)

