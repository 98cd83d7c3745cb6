"""From tissues to images: uptake with its texture, breathing, resolution, noise; and a CT-like map."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seganypet.phantom.canvas import Canvas, smooth_field
from seganypet.phantom.patient import ID, TISSUES, Patient
from seganypet.regions import enclosing_box

_FWHM_TO_SD = 1 / 2.3548


@dataclass(frozen=True)
class Imaging:
    """How a scanner and reconstruction blur and speckle.

    Attributes:
        fwhm_mm: Resolution of the image.
        noise_fwhm_mm: Width of the kernel that shapes white noise, (in-plane, axial).
        noise_fraction: Standard deviation of the noise in the liver, over the liver's mean.
        noise_power: Noise grows with the signal to this power.
        dome_mm: Breathing amplitude of the liver's dome.
        air_suv: Mean of what a reconstruction leaves in the air, SUV.
    """

    fwhm_mm: float
    noise_fwhm_mm: tuple[float, float]
    noise_fraction: float
    noise_power: float
    dome_mm: float
    air_suv: float


def draw_imaging(rng: np.random.Generator, domain: str) -> Imaging:
    """Draw the imaging of one scan; `external` is sharper and noisier than `internal`."""
    internal = domain == "internal"
    return Imaging(
        fwhm_mm=float(rng.uniform(6.0, 7.0) if internal else rng.uniform(4.5, 6.0)),
        noise_fwhm_mm=(
            (float(rng.uniform(6.3, 7.5)), float(rng.uniform(3.5, 5.0)))
            if internal
            else (float(rng.uniform(4.5, 6.5)), float(rng.uniform(3.0, 4.0)))
        ),
        noise_fraction=float(np.clip(rng.normal(0.115 if internal else 0.14, 0.025), 0.075, 0.20)),
        noise_power=float(rng.uniform(0.6, 0.9)),
        dome_mm=float(rng.uniform(8, 20)),
        air_suv=float(rng.uniform(0.002, 0.007)),
    )


def uptake_map(canvas: Canvas, patient: Patient, heart_frame, rng: np.random.Generator) -> np.ndarray:
    """Uptake (SUVbw) before imaging: one value per tissue, times the texture of each; (I, J, K), float32."""
    suv, labels = patient.suv, canvas.labels
    table = np.zeros(256, np.float32)
    for name, label in ID.items():
        table[label] = suv[_kind(name)]
    # Calyces fill unevenly: the two sides differ.
    for side in ("left", "right"):
        table[ID[f"kidney_{side}_pelvis"]] *= np.exp(rng.normal(0, 0.3))
    activity = table[labels]
    lo, hi = (-280, -180, -700), (280, 260, 480)

    boxes = ndimage.find_objects(labels)

    def textured(names, amount, step_mm):
        """Multiply the named tissues by exp(amount x smooth field); a mean of 1 is kept."""
        chosen = [ID[name] for name in names if ID[name] <= len(boxes) and boxes[ID[name] - 1]]
        if not chosen:
            return
        box = enclosing_box(boxes[label - 1] for label in chosen)
        mask = np.isin(labels[box], chosen)
        axes = canvas.axes(box)
        field = smooth_field(rng, axes, [axis[0] for axis in axes], [axis[-1] for axis in axes], step_mm)
        np.multiply(activity[box], np.exp(amount * field - amount**2 / 2), out=activity[box], where=mask)

    textured(["liver"], 0.06, 18)
    textured(["spleen"], 0.06, 16)
    for side in ("left", "right"):
        textured([f"kidney_{side}_cortex"], 0.22, 11)
        textured([f"kidney_{side}_pelvis"], 0.65, 12)
    textured([name for name in TISSUES if name.startswith("lung_")], 0.16, 30)
    textured(["small_bowel", "pancreas"], 0.35, 28)
    textured(["colon"], 0.5, 42)
    textured(["stomach_wall", "esophagus"], 0.3, 30)
    textured(["brain_grey", "cerebellum"], 0.12, 22)
    textured(["marrow"], 0.14, 35)
    textured(["prostate", "uterus"], 0.22, 10)
    textured(["breast", "mediastinum"], 0.25, 22)
    # Muscle and fat fill the body: a coarse field of the whole grid.
    field = smooth_field(rng, (canvas.x, canvas.y, canvas.z), lo, hi, 60)
    body = (labels > 0) & (labels <= ID["muscle"])
    np.multiply(activity, 1 + 0.14 * field, out=activity, where=body)

    # Urine is heavier where it carries more tracer.
    heavier = 1 - 0.25 * np.clip((canvas.y - 45 * patient.scale[1]) / 40, -1, 1)
    np.multiply(activity, heavier.astype(np.float32)[None, :, None], out=activity, where=labels == ID["bladder"])
    # Lungs: more blood, and more uptake, in what lies at the back and below.
    lungs = (labels >= ID["lung_lower_lobe_left"]) & (labels <= ID["lung_middle_lobe_right"])
    slope = (1.08 - (canvas.y - 40)[None, :, None] / 400) * (1 - np.clip(canvas.z, -60, 170)[None, None, :] / 900)
    np.multiply(activity, slope.astype(np.float32), out=activity, where=lungs)

    if len(boxes) >= ID["myocardium"] and boxes[ID["myocardium"] - 1]:
        _pattern_myocardium(activity, canvas, boxes[ID["myocardium"] - 1], patient, heart_frame, rng)
    np.maximum(activity, 0, out=activity)
    return activity


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


def _kind(tissue: str) -> str:
    """Lobes of the lungs are alike, and so are the parts of both kidneys."""
    if tissue.startswith("lung_"):
        return "lung"
    if tissue.startswith("kidney_"):
        return f"kidney_{tissue.rpartition('_')[2]}"  # cortex or pelvis
    return tissue


def breathe(activity: np.ndarray, z: np.ndarray, dome_mm: float) -> np.ndarray:
    """Blur along z as free breathing does: most at the dome, less at the kidneys, none at apex and pelvis.

    The organs dwell near exhalation (density of position: cos^4 breathing). The mean displacement
    is taken out, so that the painted labels mark the mean position.

    Source: amplitude over z from published organ motion (kidney 0.65 x, heart 0.5 x the diaphragm).
    """
    amplitude = dome_mm * np.interp(z, (-330, -240, -130, -40, 5, 50, 110, 160), (0, 0.15, 0.62, 1, 1, 0.6, 0.25, 0))
    displacement = -np.cos(np.linspace(0, np.pi, 41)[:-1]) ** 4  # 0 exhaled .. -1 inhaled
    displacement -= displacement.mean()
    step = float(z[1] - z[0]) if len(z) > 1 else 1.0
    moving = np.flatnonzero(amplitude > 0.3)
    if len(moving) < 3:
        return activity
    rows = slice(int(moving[0]), int(moving[-1]) + 1)
    reach = int(np.ceil(dome_mm / step)) + 1
    columns = slice(max(rows.start - reach, 0), min(rows.stop + reach, len(z)))
    kernel = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    for row in range(kernel.shape[0]):
        source = rows.start + row - displacement * amplitude[rows.start + row] / step - columns.start
        source = np.clip(source, 0, kernel.shape[1] - 1.001)
        low = source.astype(int)
        np.add.at(kernel[row], low, (1 - (source - low)) / len(source))
        np.add.at(kernel[row], low + 1, (source - low) / len(source))
    blurred = activity[:, :, columns] @ kernel.T  # (I, J, columns) -> (I, J, rows)
    activity[:, :, rows] = blurred
    return activity


def acquire(
    activity: np.ndarray, canvas: Canvas, spacing: tuple[float, float, float], imaging: Imaging, liver_suv: float,
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """The PET image of an uptake map: breathing, resolution, correlated noise; SUVbw >= 0, float32."""
    signal = breathe(activity, canvas.z, imaging.dome_mm)
    sd = [imaging.fwhm_mm * _FWHM_TO_SD / size for size in spacing]
    signal = ndimage.gaussian_filter(signal, sd, truncate=3.0)
    np.maximum(signal, 0.0, out=signal)
    noise = rng.standard_normal(signal.shape, np.float32)
    plane, axial = (width * _FWHM_TO_SD for width in imaging.noise_fwhm_mm)
    sd = [plane / spacing[0], plane / spacing[1], axial / spacing[2]]
    noise = ndimage.gaussian_filter(noise, sd, mode="wrap", truncate=3.0)
    noise /= noise[::3, ::3].std()
    # Photons from the body's middle are attenuated most: noise is higher there.
    middle = 0.75 + 0.35 * np.exp(-(((canvas.x / 130) ** 2)[:, None] + (((canvas.y - 30) / 90) ** 2)[None, :]))
    scale = imaging.noise_fraction * liver_suv ** (1 - imaging.noise_power)
    amplitude = np.power(signal, np.float32(imaging.noise_power))
    amplitude *= (scale * middle).astype(np.float32)[:, :, None]
    amplitude *= noise
    signal += amplitude
    # OSEM keeps every voxel positive: nothing below 0, and a trace of tracer in the air.
    np.maximum(signal, 0.0, out=signal)
    np.square(noise, out=noise)
    noise *= np.float32(imaging.air_suv)
    signal += noise
    return signal


_HU = {
    "outside": -1000, "skin": 0, "fat": -100, "muscle": 55, "gallbladder": 10, "mediastinum": -40, "airway": -980,
    "esophagus": 35, "stomach_wall": 55, "stomach_content": 15, "small_bowel": 35, "colon": 0, "bladder": 8,
    "prostate": 42, "uterus": 70, "marrow": 220, "cortical_bone": 750, "disc": 85, "spinal_cord": 35,
    "brain_grey": 40, "brain_white": 28, "cerebellum": 38, "thyroid": 110, "glands": 30, "pharynx": 55, "breast": 15,
    "pancreas": 80, "liver": 55, "spleen": 48, "kidney_cortex": 32, "kidney_pelvis": 8, "blood": 50,
}  # fmt: skip
_PORTAL_HU = {"liver": 110, "spleen": 120, "kidney_cortex": 175, "kidney_pelvis": 60, "blood": 150, "muscle": 62}


def ct_map(
    canvas: Canvas, lesions: np.ndarray, spacing: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    """A CT-like map (HU) of the same anatomy, not blurred by breathing, float32.

    Source: ranges for unenhanced and portal-phase CT; three in four scans are enhanced, as in autoPET.
    """
    portal = rng.random() < 0.75
    values = {**_HU, **(_PORTAL_HU if portal else {})}
    lung = float(rng.uniform(-850, -720))
    table = np.zeros(256, np.float32)
    for name, label in ID.items():
        key = "blood" if name in ("aorta", "vessels", "heart_blood") else _kind(name)
        if name == "myocardium":
            table[label] = values["blood"] * 0.75
        else:
            table[label] = lung if key == "lung" else values[key] + rng.normal(0, 3)
    hu = table[canvas.labels]
    hu[lesions > 0] = 50 + 8 * portal
    hu = ndimage.gaussian_filter(hu, [1.2 / size for size in spacing], truncate=2.5)
    noise = rng.standard_normal(hu.shape, np.float32)
    noise *= float(rng.uniform(8, 16))
    hu += noise
    return np.clip(hu, -1024, 3000, out=hu)
