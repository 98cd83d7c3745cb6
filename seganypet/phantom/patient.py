"""Who is scanned: a patient drawn from published sizes, organ volumes and FDG uptakes."""

from dataclasses import dataclass

import numpy as np

from seganypet.organs import ORGANS

# Everything painted; the position is the label. The first eleven organs of ORGANS appear as such
# or as their parts (PARTS), so that both label maps come from one painting.
TISSUES = (
    "outside", "skin", "fat", "muscle", "liver", "gallbladder", "spleen",
    "kidney_left_cortex", "kidney_left_pelvis", "kidney_right_cortex", "kidney_right_pelvis",
    "myocardium", "heart_blood", "aorta", "vessels", "mediastinum",
    "lung_lower_lobe_left", "lung_lower_lobe_right", "lung_upper_lobe_left", "lung_upper_lobe_right",
    "lung_middle_lobe_right", "airway", "esophagus", "stomach_wall", "stomach_content", "small_bowel",
    "colon", "bladder", "prostate", "uterus", "marrow", "cortical_bone", "disc", "spinal_cord",
    "brain_grey", "brain_white", "cerebellum", "thyroid", "glands", "pharynx", "breast", "pancreas",
)  # fmt: skip
ID = {name: label for label, name in enumerate(TISSUES)}

PARTS = {
    "kidney_left": ("kidney_left_cortex", "kidney_left_pelvis"),
    "kidney_right": ("kidney_right_cortex", "kidney_right_pelvis"),
    "heart": ("myocardium", "heart_blood"),
}


def organs_of(anatomy: np.ndarray) -> np.ndarray:
    """The twelve organs (ids 1 to 12, order of ORGANS) out of an anatomy label map, uint8."""
    table = np.zeros(256, np.uint8)
    for organ_id, organ in enumerate(ORGANS, start=1):
        for part in PARTS.get(organ, (organ,)):
            table[ID[part]] = organ_id
    return table[anatomy]


@dataclass(frozen=True)
class Patient:
    """A drawn patient; lengths in mm, volumes in mL.

    Attributes:
        sex: "M" or "F".
        scale: Factors (x, y, z) from the 176 cm, 73 kg reference man to this patient's inner anatomy.
        torso_scale: Factor of the torso's outline, which fat widens.
        volumes_ml: Drawn target volumes of liver, spleen, kidneys, heart, prostate, bladder.
        suv: Drawn uptake (SUVbw) per tissue, before texture and imaging.
    """

    sex: str
    height_cm: float
    bmi: float
    arms_up: bool
    scale: tuple[float, float, float]
    torso_scale: float
    volumes_ml: dict[str, float]
    suv: dict[str, float]

    @property
    def weight_kg(self) -> float:
        return self.bmi * (self.height_cm / 100) ** 2


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient.

    Source: reference man and woman of ICRP 110 (geometry), organ volumes of 912 autoPET scans
    (mean, P1 to P99; men 1.1 x, women 0.9 x), SUV ratios to the liver of 815 of them.
    """
    sex = "M" if rng.random() < 0.55 else "F"
    height_cm = rng.normal(176, 7) if sex == "M" else rng.normal(163, 6.5)
    bmi = float(np.clip(rng.normal(26, 4.5), 17, 42))
    man = sex == "M"
    body = (176, 23.6, 1.0, 1.0, 1.0) if man else (163, 22.6, 0.86, 0.87, 0.94)
    reference_height, reference_bmi, fx, fy, fz = body
    tall = height_cm / reference_height
    # In-plane, weight over height is area: the outline grows with the root, organs with less of it.
    torso = float(np.sqrt(bmi / reference_bmi * tall))
    inner = torso**0.55
    scale = float(fx * inner), float(fy * inner), float(fz * tall)
    size = (1.1 if man else 0.9) * inner**1.5 * tall

    def volume(median: float, log_sd: float, low: float, high: float, factor: float = size) -> float:
        return float(np.clip(median * factor * np.exp(rng.normal(0, log_sd)), low, high))

    kidneys = volume(155, 0.18, 95, 245)
    volumes_ml = {
        "liver": volume(1500, 0.17, 1000, 2750),
        "spleen": volume(215, 0.38, 80, 700),
        "kidney_left": float(kidneys * rng.normal(1.02, 0.06)),
        "kidney_right": float(kidneys * rng.normal(0.98, 0.06)),
        "heart": volume(590, 0.14, 420, 1000),
        "prostate": volume(30, 0.4, 15, 90, 1.0) if man else 0.0,
        "bladder": volume(125, 0.5, 45, 390, 1.0),
    }
    return Patient(
        sex, float(height_cm), bmi, bool(rng.random() < 0.8), scale, torso, volumes_ml, _draw_uptake(rng, man)
    )


def _draw_uptake(rng: np.random.Generator, man: bool) -> dict[str, float]:
    """SUVbw per tissue: the liver first, the rest as ratios to it where ratios are published."""

    def spread(median: float, log_sd: float, low: float = 0.0, high: float = 100.0) -> float:
        return float(np.clip(median * np.exp(rng.normal(0, log_sd)), low, high))

    liver = float(np.clip(rng.normal(2.1, 0.42), 1.25, 3.3))
    blood = liver * float(np.clip(rng.normal(0.72, 0.09), 0.5, 0.95))
    # Myocardium, heart P90 / liver: <1.5 in 43 %, 1.5 to 3 in 27 %, >3 in 30 % of scans.
    state = rng.choice(3, p=(0.43, 0.27, 0.30))
    ranges = ((blood * 0.95, blood * 1.35), (2.5 * liver, 4.8 * liver), (3.6 * liver, 8.5 * liver))
    # Metformin lights up the bowel, growth factors the marrow and the spleen.
    metformin = float(rng.uniform(2, 4)) if rng.random() < 0.06 else 1.0
    stimulated = float(rng.uniform(1.6, 2.4)) if rng.random() < 0.05 else 1.0
    grey = liver * spread(4.2, 0.22, 2.4, 7.0)
    return {
        "outside": 0.0,
        "skin": spread(0.4, 0.3, 0.15, 1.0),
        "fat": spread(0.2, 0.3, 0.08, 0.45),
        "muscle": spread(0.6, 0.2, 0.35, 1.0),
        "liver": liver,
        "gallbladder": liver * spread(0.45, 0.3),
        "spleen": liver * float(np.clip(rng.normal(0.81, 0.11), 0.55, 1.15)) * stimulated**0.5,
        "kidney_cortex": liver * spread(1.0, 0.13, 0.7, 1.4),
        "kidney_pelvis": liver * spread(2.8, 0.4, 1.2, 9),
        "myocardium": float(rng.uniform(*ranges[state])),
        "myocardium_state": float(state),
        "heart_blood": blood,
        "aorta": blood,
        "vessels": blood * 0.97,
        "mediastinum": blood * 0.6,
        "lung": spread(0.48, 0.22, 0.25, 0.9),
        "airway": 0.08,
        "esophagus": liver * spread(0.75, 0.25),
        "stomach_wall": liver * spread(0.95, 0.35, 0.4, 3.0),
        "stomach_content": spread(0.5, 0.4),
        "small_bowel": liver * spread(0.6, 0.3, 0.3, 1.6) * metformin,
        "colon": liver * spread(0.6, 0.45, 0.25, 3.5) * metformin,
        "bladder": liver * spread(5.2, 0.6, 1.3, 30),
        "prostate": liver * spread(0.95, 0.25) if man else 0.0,
        "uterus": liver * spread(0.8, 0.3),
        "marrow": liver * spread(0.58, 0.24, 0.3, 1.0) * stimulated,
        "cortical_bone": spread(0.55, 0.25),
        "disc": spread(0.7, 0.2),
        "spinal_cord": liver * spread(0.75, 0.2),
        "brain_grey": grey,
        "brain_white": grey * float(rng.uniform(0.33, 0.43)),
        "cerebellum": grey * float(rng.uniform(0.72, 0.88)),
        "thyroid": liver * spread(0.65, 0.3, 0.4, 3.0),
        "glands": liver * spread(0.95, 0.25),
        "pharynx": liver * spread(1.2, 0.3, 0.6, 3.0),
        "breast": spread(0.6, 0.3),
        "pancreas": liver * spread(0.65, 0.2),
    }
