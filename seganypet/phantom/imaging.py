"""From uptake to images: breathing, resolution, noise; and a CT-like map."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from seganypet.phantom.canvas import Canvas
from seganypet.phantom.patient import ID, shared_name

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
        air_suv: Mean of what a reconstruction leaves in the air, SUV, before the next field.
        air_zero_fraction: Part of the air in which a reconstruction leaves exactly 0.
    """

    fwhm_mm: float
    noise_fwhm_mm: tuple[float, float]
    noise_fraction: float
    noise_power: float
    dome_mm: float
    air_suv: float
    air_zero_fraction: float


def draw_imaging(rng: np.random.Generator, domain: str) -> Imaging:
    """Draw the imaging of one scan: `internal` mixes scanners and filters; `external` is sharper and noisier.

    Source: liver CoV 0.14 to 0.24 in autoPET's scans; autocorrelation of the noise and width of the liver's dome in two
    whole-body scans of another make, one of which left 0 in four of ten voxels of the air.
    """
    internal = domain == "internal"
    return Imaging(
        fwhm_mm=float(rng.uniform(5.0, 7.5) if internal else rng.uniform(4.2, 6.0)),
        noise_fwhm_mm=(
            (float(rng.uniform(4.8, 7.2)), float(rng.uniform(2.6, 4.4)))
            if internal
            else (float(rng.uniform(4.0, 6.0)), float(rng.uniform(2.6, 3.8)))
        ),
        noise_fraction=float(np.clip((0.19 if internal else 0.21) * np.exp(rng.normal(0, 0.22)), 0.11, 0.30)),
        noise_power=float(rng.uniform(0.6, 0.9)),
        dome_mm=float(np.clip(6.5 * np.exp(rng.normal(0, 0.45)), 2.5, 20)),
        air_suv=float(rng.uniform(0.002, 0.007)),
        air_zero_fraction=float(rng.uniform(0.3, 0.45)) if rng.random() < 0.5 else 0.0,
    )


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
    # Nothing lies below 0; the air holds a trace of tracer, or, where the scanner cuts it off, none in part of it.
    np.maximum(signal, 0.0, out=signal)
    np.square(noise, out=noise)
    noise -= np.float32(special.ndtri(0.5 + imaging.air_zero_fraction / 2) ** 2)  # that part of the squares is less
    np.maximum(noise, 0.0, out=noise)
    noise *= np.float32(imaging.air_suv)
    signal += noise
    return signal


_HU = {
    "outside": -1000, "skin": 0, "fat": -100, "muscle": 55, "gallbladder": 10, "mediastinum": -40, "airway": -980,
    "esophagus": 35, "stomach_wall": 55, "stomach_content": 15, "small_bowel": 35, "colon": 0, "bladder": 8,
    "prostate": 42, "uterus": 70, "marrow": 220, "cortical_bone": 750, "disc": 85, "spinal_cord": 35,
    "brain_grey": 40, "brain_white": 28, "cerebellum": 38, "thyroid": 110, "glands": 30, "pharynx": 55, "breast": 15,
    "pancreas": 80, "ureter": 10, "liver": 55, "spleen": 48, "kidney_cortex": 32, "kidney_pelvis": 8, "blood": 50,
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
        key = "blood" if name in ("aorta", "vessels", "heart_blood") else shared_name(name)
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
