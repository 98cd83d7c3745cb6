"""Uptake of the painted tissues, before imaging: one value per tissue, times the texture of each."""

import numpy as np
from scipy import ndimage

from seganypet.phantom.anatomy import Painter
from seganypet.phantom.canvas import Box, Canvas, smooth_field
from seganypet.phantom.patient import ID, TISSUES, shared_name
from seganypet.regions import enclosing_box

# Tissues that share a field -> strength and step (mm) of their texture.
_TEXTURES = (
    (("liver",), 0.05, 18), (("spleen",), 0.06, 16),
    (("kidney_left_cortex",), 0.24, 11), (("kidney_left_pelvis",), 0.65, 12),
    (("kidney_right_cortex",), 0.24, 11), (("kidney_right_pelvis",), 0.65, 12),
    (("ureter",), 1.0, 24), (tuple(name for name in TISSUES if name.startswith("lung_")), 0.2, 22),
    (("small_bowel",), 0.45, 24), (("pancreas",), 0.2, 20), (("colon",), 0.7, 34), (("colon",), 0.3, 12),
    (("stomach_wall", "esophagus"), 0.35, 26), (("brain_grey", "cerebellum"), 0.12, 22), (("marrow",), 0.18, 28),
    (("prostate", "uterus"), 0.22, 10), (("breast",), 0.3, 22), (("mediastinum",), 0.4, 20), (("glands",), 0.15, 15),
)  # fmt: skip


def uptake_map(painter: Painter, rng: np.random.Generator) -> np.ndarray:
    """Uptake (SUVbw) of a patient who is painted, before imaging, shape (I, J, K), float32."""
    canvas, patient = painter.canvas, painter.patient
    suv, labels = patient.suv, canvas.labels
    table = np.zeros(256, np.float32)
    for name, label in ID.items():
        table[label] = suv[shared_name(name)]
    # Calyces fill unevenly: the two sides differ.
    for side in ("left", "right"):
        table[ID[f"kidney_{side}_pelvis"]] *= np.exp(rng.normal(0, 0.3))
    activity = table[labels]

    boxes = ndimage.find_objects(labels)
    for names, strength, step_mm in _TEXTURES:
        chosen = [ID[name] for name in names if ID[name] <= len(boxes) and boxes[ID[name] - 1]]
        if chosen:
            box = enclosing_box(boxes[label - 1] for label in chosen)
            field = _field_in(canvas, box, step_mm, rng)
            texture = np.exp(strength * field - strength**2 / 2)  # a mean of 1
            np.multiply(activity[box], texture, out=activity[box], where=np.isin(labels[box], chosen))
    _texture_of_the_body(activity, painter, rng)
    # Urine is heavier where it carries more tracer.
    heavier = 1 - 0.25 * np.clip((canvas.y - 45 * patient.scale[1]) / 40, -1, 1)
    np.multiply(activity, heavier.astype(np.float32)[None, :, None], out=activity, where=labels == ID["bladder"])
    # Lungs: more blood, and more uptake, in what lies at the back and below.
    lungs = (labels >= ID["lung_lower_lobe_left"]) & (labels <= ID["lung_middle_lobe_right"])
    slope = (1.08 - (canvas.y - 40)[None, :, None] / 400) * (1 - np.clip(canvas.z, -60, 170)[None, None, :] / 900)
    np.multiply(activity, slope.astype(np.float32), out=activity, where=lungs)
    _vessels_of_the_lungs(activity, painter, lungs)

    if len(boxes) >= ID["myocardium"] and boxes[ID["myocardium"] - 1]:
        _pattern_myocardium(activity, canvas, boxes[ID["myocardium"] - 1], patient, painter.heart_frame, rng)
    np.maximum(activity, 0, out=activity)
    return activity


def _field_in(canvas: Canvas, box: Box, step_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field in a box of the grid."""
    axes = canvas.axes(box)
    return smooth_field(rng, axes, [axis[0] for axis in axes], [axis[-1] for axis in axes], step_mm)


def _texture_of_the_body(activity: np.ndarray, painter: Painter, rng: np.random.Generator) -> None:
    """Muscles differ and planes of fat part them; fat between the organs holds vessels and looks warmer than skin's."""
    canvas, labels = painter.canvas, painter.canvas.labels
    lo, hi = (-280, -180, -700), (280, 260, 480)  # the same field on every grid
    field = smooth_field(rng, (canvas.x, canvas.y, canvas.z), lo, hi, 45)
    planes = np.abs(field)
    planes *= -1 / 0.13
    planes += 1
    np.maximum(planes, 0, out=planes)
    field *= 0.16
    field += 1
    np.maximum(field, 0.4, out=field)
    np.multiply(activity, field, out=activity, where=(labels > 0) & (labels <= ID["muscle"]))
    planes *= -0.5
    planes += 1
    np.multiply(activity, planes, out=activity, where=labels == ID["muscle"])
    box, inside = painter.cavity
    if inside.size:
        vessels = 2.2 * np.exp(0.4 * _field_in(canvas, box, 20, rng))
        np.multiply(activity[box], vessels, out=activity[box], where=inside & (labels[box] == ID["fat"]))


def _vessels_of_the_lungs(activity: np.ndarray, painter: Painter, lungs: np.ndarray) -> None:
    """Towards the hilum vessels are wider and closer together."""
    canvas, scale = painter.canvas, painter.scale
    for side in (1, -1):
        hilum = (np.array((side * 42, 22, 58)) * scale).astype(np.float32)
        box = canvas.box(hilum - 90, hilum + 90)
        x, y, z = (axis - c for axis, c in zip(canvas.mesh(box), hilum, strict=True))
        nearer = 1 + 1.1 * np.exp(-(x**2 + y**2 + (0.7 * z) ** 2) / 34**2)
        np.multiply(activity[box], nearer, out=activity[box], where=lungs[box])


def _pattern_myocardium(activity, canvas, box, patient, heart_frame, rng) -> None:
    """Fasting hearts keep glucose in patches (base, lateral wall), others all round with a paler apex."""
    wall = canvas.labels[box] == ID["myocardium"]
    centre, along, across, factor = heart_frame
    x, y, z = (axis - c for axis, c in zip(canvas.mesh(box), centre, strict=True))
    a = (x * along[0] + y * along[1] + z * along[2]) / (50 * factor)  # -0.5 base .. 1 apex
    b = (x * across[0] + y * across[1] + z * across[2]) / (40 * factor)  # lateral wall < 0
    low = [float(axis[0]) for axis in canvas.axes(box)]
    high = [float(axis[-1]) for axis in canvas.axes(box)]
    field = smooth_field(rng, canvas.axes(box), low, high, 24)
    state = patient.suv["myocardium_state"]
    if state == 1:
        pattern = np.clip(0.75 - 0.45 * a - 0.3 * b + 0.22 * field, 0.25, 1.5)
    else:
        pattern = np.clip(1 - 0.12 * a - 0.05 * b + (0.12 if state else 0.08) * field, 0.4, 1.4)
    np.multiply(activity[box], pattern.astype(np.float32), out=activity[box], where=wall)
