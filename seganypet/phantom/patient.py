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
    "brain_grey", "brain_white", "cerebellum", "thyroid", "glands", "pharynx", "breast", "pancreas", "ureter",
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


def shared_name(tissue: str) -> str:
    """What a tissue shares its properties with: lobes of the lungs are alike, and so are the parts of both kidneys."""
    if tissue.startswith("lung_"):
        return "lung"
    if tissue.startswith("kidney_"):
        return f"kidney_{tissue.rpartition('_')[2]}"  # cortex or pelvis
    return tissue


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
    (mean, P1 to P99; men 1.1 x, women 0.9 x); SUV of 32 regions of 80 healthy people, their spread and their ratio to
    the liver (hedypet), with the wider spread of patients; myocardium, marrow and bowel of 815 autoPET scans.
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


# Tissue -> median SUVbw of what is painted, exponent of the liver's uptake in it, and log-SD beside that.
# Organs move together as they do in 80 healthy people (Spearman with the liver: blood 0.83, spleen 0.69, muscle 0.44;
# bowel and urine go their own way); what is small is painted hotter than scans show it, since imaging dims it.
_UPTAKE = {
    "skin": (0.42, 0.3, 0.25), "fat": (0.30, 0.3, 0.22), "muscle": (0.68, 0.37, 0.13), "gallbladder": (0.9, 0.0, 0.4),
    "spleen": (1.75, 0.61, 0.11), "kidney_cortex": (2.7, 0.6, 0.13), "kidney_pelvis": (10.0, 0.3, 0.5),
    "heart_blood": (2.05, 0.72, 0.083), "lung": (0.55, 0.6, 0.2), "esophagus": (2.0, 0.5, 0.15),
    "stomach_wall": (2.6, 0.4, 0.28), "stomach_content": (0.8, 0.0, 0.4), "small_bowel": (2.7, 0.0, 0.4),
    "colon": (1.25, 0.0, 0.4), "bladder": (23.0, 0.0, 0.6), "prostate": (2.3, 0.5, 0.3), "uterus": (1.9, 0.5, 0.35),
    "marrow": (1.55, 0.5, 0.16), "cortical_bone": (0.6, 0.3, 0.2), "disc": (0.75, 0.3, 0.2),
    "spinal_cord": (1.4, 0.4, 0.15), "brain_grey": (9.3, 0.3, 0.2), "thyroid": (1.5, 0.4, 0.25),
    "glands": (2.2, 0.4, 0.28), "pharynx": (2.9, 0.3, 0.35), "breast": (0.7, 0.3, 0.3), "pancreas": (1.75, 0.3, 0.15),
    "ureter": (7.0, 0.0, 0.6),
}  # fmt: skip


def _draw_uptake(rng: np.random.Generator, man: bool) -> dict[str, float]:
    """SUVbw per tissue: the liver first, the rest as _UPTAKE says."""
    liver = float(np.clip(2.25 * np.exp(rng.normal(0, 0.17)), 1.3, 3.6))
    suv = {"outside": 0.0, "airway": 0.15, "liver": liver}
    for tissue, (median, exponent, log_sd) in _UPTAKE.items():
        deviation = float(np.clip(rng.normal(), -2.6, 2.6))
        suv[tissue] = median * (liver / 2.25) ** exponent * float(np.exp(log_sd * deviation))
    # Metformin lights up the bowel, growth factors the marrow and the spleen.
    metformin = float(rng.uniform(1.5, 4)) if rng.random() < 0.07 else 1.0
    stimulated = float(rng.uniform(1.6, 2.4)) if rng.random() < 0.05 else 1.0
    for tissue, factor in (("small_bowel", metformin), ("colon", metformin), ("marrow", stimulated),
                           ("spleen", stimulated**0.5)):  # fmt: skip
        suv[tissue] *= factor
    # Myocardium, heart P90 / liver: <1.5 in 43 %, 1.5 to 3 in 27 %, >3 in 30 % of scans.
    blood = suv["heart_blood"]
    state = rng.choice(3, p=(0.43, 0.27, 0.30))
    ranges = ((blood * 0.9, blood * 1.3), (2.3 * liver, 4.5 * liver), (3.4 * liver, 8.0 * liver))
    return suv | {
        "myocardium": float(rng.uniform(*ranges[state])),
        "myocardium_state": float(state),
        "aorta": blood,
        "vessels": blood * float(rng.uniform(0.88, 1.0)),
        "mediastinum": blood * float(rng.uniform(0.55, 0.8)),
        "brain_white": suv["brain_grey"] * float(rng.uniform(0.36, 0.5)),
        "cerebellum": suv["brain_grey"] * float(rng.uniform(0.72, 0.88)),
        "prostate": suv["prostate"] if man else 0.0,
    }
