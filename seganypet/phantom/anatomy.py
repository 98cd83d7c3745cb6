"""Painting a patient: outline, bones and chest; `abdomen` paints the rest over it."""

from collections.abc import Iterable, Sequence

import numpy as np

from seganypet.phantom.canvas import Canvas, Point, curve, smooth_field
from seganypet.phantom.donors import Lending
from seganypet.phantom.patient import ID, Patient

# Outline of the reference man: z, full width, full depth, how far the section's centre lies before the spine; mm.
_OUTLINE = np.array([
    (-478, 4, 4, 20), (-474, 330, 165, 16), (-440, 362, 186, 18), (-370, 366, 194, 25), (-320, 352, 196, 30),
    (-250, 322, 208, 34), (-190, 300, 216, 36), (-120, 300, 221, 37), (-60, 320, 226, 38), (0, 338, 228, 38),
    (60, 346, 224, 34), (110, 362, 206, 26), (140, 366, 175, 18), (165, 300, 146, 12), (180, 178, 128, 10),
    (200, 122, 122, 14), (235, 120, 132, 22), (260, 136, 160, 28), (300, 150, 186, 30), (345, 156, 198, 30),
    (390, 152, 192, 28), (420, 132, 164, 26), (440, 100, 120, 24), (452, 56, 70, 22), (457, 4, 4, 22),
])  # fmt: skip
_FEMALE_WIDTH = np.interp(_OUTLINE[:, 0], (-455, -370, -120, 0, 140, 180), (1.08, 1.06, 0.92, 0.82, 0.9, 0.92))
# Half width, half depth and centre of the chest wall's inside.
_THORAX = np.array([
    (-130, 128, 84, 44), (-60, 135, 89, 48), (0, 135, 90, 47), (60, 126, 82, 39), (100, 111, 66, 27),
    (130, 92, 50, 14), (150, 70, 34, 6), (163, 44, 20, 2), (168, 2, 2, 2),
])  # fmt: skip
SPINE_Y = ((-330, -12), (-260, 2), (-180, 7), (-80, 2), (40, -8), (130, -4), (200, 6), (260, 4))


def squarish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Radius of a point in units of a section between ellipse and rectangle: 1 on its outline, float32."""
    # Where the cross term would turn the radius back towards 0, far outside, the squares are capped.
    u, v = (np.minimum(part.astype(np.float32) ** 2, 3) for part in (x, y))
    return np.sqrt(u + v - 0.27 * u * v)


class Painter:
    """Paints one patient onto a canvas; every method draws from the same generator, in a fixed order.

    What donors lend takes the place of what would be drawn, and has a generator of its own.
    """

    def __init__(self, canvas: Canvas, patient: Patient, rng: np.random.Generator, lending: Lending) -> None:
        self.canvas, self.patient, self.rng, self.lending = canvas, patient, rng, lending
        self.scale = np.array(patient.scale)
        self.size = float(np.prod(self.scale) ** (1 / 3))

    def paint_frame(self) -> None:
        """Everything that the soft organs are painted over, and the chest."""
        self._limbs()
        self._outline()
        self._cavities()
        self._bones()
        self._chest()

    # --- helpers: reference-man millimetres in, this patient's out -------------------------------
    def at(self, x: float, y: float, z: float, jitter_mm: float = 0.0) -> np.ndarray:
        """A position in the reference man transferred to this patient, mm, with a random jitter."""
        return np.array([x, y, z]) * self.scale + (self.rng.normal(0, jitter_mm, 3) if jitter_mm else 0)

    def blob(
        self,
        tissue: str | None,
        centre: Point,
        half: Point,
        jitter_mm: float = 0.0,
        warp_mm: float = 0.0,
        over: Iterable[int] | None = None,
        layers: Sequence[tuple[int, float]] | None = None,
        factor: float = 1.0,
    ) -> None:
        """Paint an ellipsoid given in the reference man's millimetres, of one tissue or in layers."""
        middle, half_mm = self.at(centre[0], centre[1], centre[2], jitter_mm), np.array(half) * self.scale * factor
        box, level = self.canvas.ellipsoid(middle, half_mm, self.rng, warp_mm, max(half_mm.min(), 12.0))
        box, level = self.lending(self.canvas, tissue, box, level)
        self.canvas.paint(box, level, layers or [(ID[tissue or ""], 0)], over)

    def pipe(
        self,
        tissue: str | None,
        points: Sequence[Point],
        radii: float | Point,
        n: int = 12,
        over: Iterable[int] | None = None,
        layers: Sequence[tuple[int, float]] | None = None,
        warp_mm: float = 0.0,
    ) -> None:
        """Paint a tube through points given in the reference man's millimetres; radii in mm of the patient."""
        path = curve(np.array(points, float) * self.scale, n)
        radius = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, np.size(radii)), np.atleast_1d(radii))
        box, level = self.canvas.tube(path, radius, self.rng, warp_mm)
        self.canvas.paint(box, level, layers or [(ID[tissue or ""], 0)], over)

    def thorax(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Normalised radius of the chest wall's inside: below 1 within it."""
        half_x, half_y, centre = (np.interp(z / self.scale[2], _THORAX[:, 0], column) for column in _THORAX.T[1:])
        return squarish(x / (half_x * self.scale[0]), (y - centre * self.scale[1]) / (half_y * self.scale[1]))

    # --- the body --------------------------------------------------------------------------------
    def _limbs(self):
        fat = 6 + 9 * max(self.patient.torso_scale - 0.8, 0) * 2
        legs = [((s * 94, 8, -420), (s * 94, 10, -520), (s * 85, 8, -800)) for s in (1, -1)]
        thigh = 88 * self.patient.torso_scale**0.8 * self.size**0.3
        outside = [ID["outside"]]
        for leg in legs:
            layers = [(ID["skin"], 0), (ID["fat"], 3), (ID["muscle"], 3 + fat)]
            self.pipe(None, leg, (thigh, thigh * 0.97, thigh * 0.8), 8, outside, layers, 1.5)
        arm = 42 * self.patient.torso_scale**0.8
        spread = self.rng.normal(0, 12)
        for side in (1, -1):
            if self.patient.arms_up:
                path = [(side * 150, 0, 120), (side * (178 + spread), 5, 230), (side * (150 + spread), 30, 390),
                        (side * (80 + spread), 45, 560)]
            else:
                out = 165 * self.patient.torso_scale / self.scale[0]
                path = [(side * 165, 0, 115), (side * (out + 38), -5, 0), (side * (out + 48), 10, -200),
                        (side * (out + 30), 45, -430)]
            layers = [(ID["skin"], 0), (ID["fat"], 3), (ID["muscle"], 4 + 0.7 * fat)]
            self.pipe(None, path, (arm * 1.15, arm, arm * 0.85, arm * 0.7), 14, outside, layers, 1.0)
            self.pipe("cortical_bone", path, (12, 11, 9, 9), 14, [ID["muscle"]])

    def _outline(self):
        canvas, z = self.canvas, self.canvas.z / self.scale[2]
        width, depth, centre = (np.interp(z, _OUTLINE[:, 0], column) for column in _OUTLINE.T[1:])
        width, depth = width / 2, depth / 2
        if self.patient.sex == "F":
            width = width * np.interp(z, _OUTLINE[:, 0], _FEMALE_WIDTH)
            depth = depth * np.interp(z, (-300, 0, 150, 200), (1.02, 0.85, 0.9, 0.93))
        # Head and neck keep the size of the skeleton; only the torso grows with weight.
        torso = np.interp(z, (-460, 120, 200), (self.patient.torso_scale, self.patient.torso_scale, 1.0))
        head = np.interp(z, (140, 250), (0, 1)) * (self.size / (0.89 if self.patient.sex == "F" else 1) - 1) * 0.5 + 1
        half_x, half_y = width * torso * head, depth * torso * head
        # Extra weight sits in front at the belly.
        belly = np.interp(z, (-350, -200, -60, 60), (0, 1, 0.6, 0)) * max(self.patient.torso_scale - 1, 0) * 25
        half_y = half_y + belly
        middle = centre * (1 + (torso - 1) * 0.6) + belly
        inside = width * depth > 20**2
        half_x, half_y = np.where(inside, half_x, 0.1), np.where(inside, half_y, 0.1)
        mean = np.sqrt(half_x * half_y).astype(np.float32)
        lo = (canvas.x[0], canvas.y[0], -500)
        x, y, _ = canvas.mesh(np.s_[:, :, :])
        level = squarish(x / half_x, (y - middle) / half_y)
        level -= 1
        level *= mean
        level += 3.0 * smooth_field(self.rng, (canvas.x, canvas.y, canvas.z), lo, (260, 260, 500), 70)
        level[:, :, ~inside] = 99
        lean = np.sqrt(width * depth) * np.interp(z, (-460, 120, 200), (self.size**0.8, self.size**0.8, 1.0)) * head
        fat_mm = np.clip(mean - lean + np.interp(z, (-460, 0, 140, 200), (14, 9, 8, 5)), 5, 60)
        labels = canvas.labels
        labels[(level < 0) & (labels == ID["outside"])] = ID["skin"]
        # Skin of arms and legs ends where they join the torso.
        labels[(level < -2.5) & (labels == ID["skin"])] = ID["fat"]
        labels[level < -np.maximum(fat_mm, 2.5).astype(np.float32)] = ID["muscle"]
        if self.patient.sex == "F":
            swell = float(np.clip(self.rng.normal(1, 0.2), 0.6, 1.5)) * self.patient.torso_scale**1.5
            front = float(np.interp(45 * self.scale[2], canvas.z, middle + half_y))
            for side in (1, -1):
                centre = (side * 72 * self.scale[0], front - 14, 45 * self.scale[2])
                box, level = canvas.ellipsoid(centre, (52 * swell, 42 * swell, 50 * swell), self.rng, 2, 40)
                fatty = [ID["outside"], ID["skin"], ID["fat"]]
                canvas.paint(box, level, [(ID["skin"], 0), (ID["fat"], 2.5)], fatty)
                box, level = canvas.ellipsoid(centre, (36 * swell, 30 * swell, 34 * swell), self.rng, 5, 22)
                canvas.paint(box, level, [(ID["breast"], 0)], [ID["fat"]])

    def _cavities(self):
        """The abdominal and pelvic cavity, filled with visceral fat until organs are painted."""
        bag = [(0, 42, 0), (0, 46, -90), (0, 50, -190), (0, 48, -270), (0, 34, -350), (0, 26, -415)]
        radius = [self.scale[0] * r for r in (110, 112, 112, 105, 82, 52)]
        path = curve(np.array(bag) * self.scale, 14)
        radii = np.interp(np.linspace(0, 1, 14), np.linspace(0, 1, 6), radius)
        # A tube is round; the belly is flat: paint in a space whose depth is stretched.
        squeeze = 0.68 * self.scale[1] / self.scale[0]
        flat = Canvas(self.canvas.x, self.canvas.y / squeeze, self.canvas.z)
        path[:, 1] /= squeeze
        box, level = flat.tube(path, radii, self.rng, 2.0, 40)
        self.canvas.paint(box, level, [(ID["fat"], 0)], [ID["muscle"]])
        self.cavity = box, level < 0

    def _bones(self):
        canvas, marrow, bone = self.canvas, ID["marrow"], ID["cortical_bone"]
        z_spine, y_spine = np.array(SPINE_Y).T * self.scale[[2, 1], None]
        box = canvas.box((-60, -75, -262 * self.scale[2]), (60, 60, 262 * self.scale[2]))
        x, y, z = canvas.mesh(box)
        reach = np.interp(z, (-260 * self.scale[2], 240 * self.scale[2]), (1.15, 0.6)).astype(np.float32) * self.size
        y = y - np.interp(z, z_spine, y_spine).astype(np.float32)
        period = np.interp(z, (-260, 200), (36, 20)) * self.scale[2]
        phase = np.mod(np.cumsum(np.gradient(z.ravel()) / period.ravel())[None, None, :] if z.size > 1 else z, 1)
        body = np.sqrt((x / (22 * reach)) ** 2 + (y / (17 * reach)) ** 2)
        back = np.sqrt((x / (19 * reach)) ** 2 + ((y + 31 * reach) / (20 * reach)) ** 2)
        process = np.sqrt((x / (38 * reach)) ** 2 + ((y + 26 * reach) / (8 * reach)) ** 2)
        canal = np.sqrt((x / (9 * reach)) ** 2 + ((y + 25 * reach) / (8 * reach)) ** 2)
        gap = (phase > 0.8) & np.ones_like(body, bool)
        view = canvas.labels[box]
        here = view > 0
        view[here & ((body < 1) | (((back < 1) | (process < 1)) & (phase < 0.6)))] = marrow
        view[here & (body < 1) & gap] = ID["disc"]
        view[here & (canal < 1)] = ID["spinal_cord"]

        for side in (1, -1):
            for n in range(12):  # ribs: round the chest wall, falling towards the front
                top = 138 - 18.5 * n
                sweep = np.linspace(0.12, (0.86 if n < 7 else 0.86 - 0.11 * (n - 6)), 12) * np.pi
                fall = 52 * np.sin(np.minimum(sweep / np.pi, 1) * np.pi / 2)
                z = top - fall
                half_x, half_y, centre = (np.interp(z, _THORAX[:, 0], column) for column in _THORAX.T[1:])
                path = np.stack(
                    [side * (half_x + 7) * np.sin(sweep), centre - (half_y + 7) * np.cos(sweep), z], 1
                ) * self.scale  # fmt: skip
                box, level = canvas.tube(path, 5.0 * self.size)
                canvas.paint(box, level, [(bone, 0), (marrow, 2.5)])
            self.pipe(None, [(side * 22, 82, 140), (side * 85, 60, 150), (side * 150, 5, 150)], 6, 8,
                      layers=[(bone, 0), (marrow, 3)])
            self.blob(None, (side * 92, -58, 80), (38, 7, 62), layers=[(bone, 0), (marrow, 3)], over=[ID["muscle"]])
            self.blob(None, (side * 158, 0, 132), (24, 24, 24), layers=[(bone, 0), (marrow, 4)], over=[ID["muscle"]])
            # Pelvis: the wing is a bent plate, then the socket, the ring and the femur.
            wing = [(side * 40, -38, -275), (side * 85, -25, -268), (side * 122, 18, -285), (side * 118, 48, -318)]
            for down in range(0, 70, 11):
                points = [(px * (1 - down / 500), py, pz - down * (1 - i / 9)) for i, (px, py, pz) in enumerate(wing)]
                self.pipe(None, points, 8 * self.size, 9, [ID["muscle"], ID["fat"], bone, marrow],
                          [(bone, 0), (marrow, 2.5)])
            self.pipe(None, [(side * 100, 10, -330), (side * 92, 18, -385), (side * 62, -8, -452)],
                      np.array((16, 22, 13)) * self.size, 9, layers=[(bone, 0), (marrow, 3)])
            self.pipe(None, [(side * 85, 38, -390), (side * 45, 68, -408), (side * 8, 72, -425)], 9 * self.size, 8,
                      layers=[(bone, 0), (marrow, 3)])
            self.pipe(None, [(side * 58, -5, -452), (side * 30, 40, -446), (side * 8, 66, -432)], 8 * self.size, 8,
                      layers=[(bone, 0), (marrow, 3)])
            femur = [(side * 92, 18, -388), (side * 132, 5, -425), (side * 112, 10, -520), (side * 98, 15, -800)]
            self.pipe(None, femur, np.array((24, 18, 14, 14)) * self.size, 14, layers=[(bone, 0), (ID["fat"], 6)])
            self.blob("marrow", (side * 92, 18, -388), (18, 18, 18))
            psoas = [(side * 30, 2, -110), (side * 42, 4, -200), (side * 62, 22, -300), (side * 84, 44, -390)]
            self.pipe("muscle", psoas, np.array((8, 19, 21, 13)) * self.size, 10, [ID["fat"]])
        self.blob(None, (0, -30, -305), (46, 18, 52), 2, 2, layers=[(bone, 0), (marrow, 2.5)])
        self.pipe(None, [(0, 108, 118), (0, 130, 60), (0, 140, 5)], (15, 13, 10), 8, layers=[(bone, 0), (marrow, 2.5)])

    # --- the chest -------------------------------------------------------------------------------
    def diaphragm(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Height (mm) of the diaphragm over the plane: two domes, the left one lower, falling to the wall."""
        sx, sy, sz = self.scale
        height = []
        for centre, top in ((66, 0.0), (-72, self.left_dome)):
            distance = ((x - centre * sx) / (76 * sx)) ** 2 + ((y - 55 * sy) / (98 * sy)) ** 2
            behind = np.clip((50 * sy - y) / (95 * sy), 0, 1)
            height.append((top - 52 * np.minimum(distance, 1.8) - 25 * behind) * sz)
        return np.where(x > -4, height[0], height[1]).astype(np.float32)

    def _chest(self):
        canvas, rng = self.canvas, self.rng
        self.left_dome = -10 + rng.normal(0, 4)
        lo, hi = self.at(-150, -60, -120), self.at(150, 160, 170)
        box = canvas.box(lo, hi)
        x, y, z = canvas.mesh(box)
        sx, sy, sz = self.scale
        wavy = smooth_field(rng, canvas.axes(box), lo, hi, 35)
        level = (self.thorax(x, y, z) - 1) * 100 + 1.5 * wavy
        floor = self.diaphragm(x, y) + 2.5 * smooth_field(rng, (*canvas.axes(box)[:2], np.zeros(1, np.float32)),
                                                          (*lo[:2], 0), (*hi[:2], 0), 45)
        level = np.maximum(level, floor - z)
        shift = rng.normal(-6, 4)
        gap = (9 + 25 * np.exp(-(((y / sy - 32) / 50) ** 2)) + 10 * (z > 0)) * sx
        level = np.maximum(level, gap - np.abs(x - shift) + 1.5 * wavy)
        tilt = 0.95 + rng.normal(0, 0.08)
        oblique = z / sz + tilt * y / sy
        ripple = 4 * smooth_field(rng, canvas.axes(box), lo, hi, 50)
        left = oblique - (74 + rng.normal(0, 8)) + ripple < 0
        right = oblique - (78 + rng.normal(0, 8)) + ripple < 0
        middle = z / sz - 0.12 * y / sy - (36 + rng.normal(0, 6)) + ripple < 0
        lobe = np.where(
            x < 0,
            np.where(left, ID["lung_lower_lobe_left"], ID["lung_upper_lobe_left"]),
            np.where(right, ID["lung_lower_lobe_right"],
                     np.where(middle, ID["lung_middle_lobe_right"], ID["lung_upper_lobe_right"])),
        ).astype(np.uint8)  # fmt: skip
        view = canvas.labels[box]
        allowed = (view > 0) & (view != ID["marrow"]) & (view != ID["cortical_bone"]) & (view != ID["spinal_cord"])
        lung = (level < 0) & allowed & (view != ID["disc"])
        # What the chest holds beside lung is mediastinum.
        chest = (self.thorax(x, y, z) < 0.97) & (z > floor) & np.isin(view, (ID["muscle"], ID["fat"]))
        view[chest] = ID["mediastinum"]
        view[lung] = lobe[lung]

        self.pipe("airway", [(2, 34, 260), (2, 30, 190), (2, 22, 120), (2, 18, 92)], 8 * self.size, 10)
        for side in (1, -1):
            self.pipe("airway", [(2, 18, 92), (side * 26, 20, 76), (side * 48, 15, 60)], (7, 6, 4), 6)
            self.pipe("vessels", [(side * 12, 38, 74), (side * 38, 28, 68), (side * 62, 20, 45)], (10, 8, 4), 6)
            self.pipe("vessels", [(side * 10, 28, 125), (side * 26, 34, 165), (side * 30, 34, 250)], (7, 6, 5), 8)
        self.pipe("vessels", [(26, 42, 135), (27, 40, 90), (24, 42, 50)], 9.5 * self.size, 6)
        self.pipe("vessels", [(20, 34, -15), (22, 30, -100), (20, 32, -240)], 10 * self.size, 8)
        self.pipe("esophagus", [(-4, 18, 190), (-6, 12, 110), (-12, 22, 20), (-24, 32, -28)], 7 * self.size, 10)
        self._heart()

        def j() -> float:
            return rng.normal(0, 2.5)

        path = [(-4, 50, 58), (12, 58, 84), (8, 42 + j(), 106), (-6, 24, 116 + j()), (-20, 6, 110), (-29 + j(), 2, 84),
                (-30 + j(), 6, 40), (-26 + j(), 12, 0), (-14 + j(), 26, -45), (-9 + j(), 30, -130),
                (-5 + j(), 29, -238)]
        wide = self.size * float(np.clip(rng.normal(1, 0.09), 0.8, 1.25))
        radii = np.array((15, 15.4, 14.6, 13.4, 12.8, 12.5, 12.3, 12.1, 11.2, 10, 9.2)) * wide
        self.pipe("aorta", path, radii, 34)
        for side in (1, -1):
            self.pipe("vessels", [(-4, 29, -238), (side * 34, 14, -290), (side * 62, 40, -370), (side * 74, 62, -430),
                                  (side * 78, 45, -560)], (8, 7, 6.5, 6, 5), 14)

    def _heart(self):
        rng, canvas = self.rng, self.canvas
        factor = (self.patient.volumes_ml["heart"] / 690) ** (1 / 3)
        centre = self.at(-28, 62, 34, 3)
        # Long axis: from the base to the apex, left, forward, down.
        along = np.array([-0.66, 0.52, -0.54]) + rng.normal(0, 0.06, 3)
        along /= np.linalg.norm(along)
        across = np.cross(along, (0, 0, 1.0))
        across /= np.linalg.norm(across)
        third = np.cross(along, across)
        reach = 88 * factor
        box = canvas.box(centre - reach, centre + reach)
        x, y, z = (axis - c for axis, c in zip(canvas.mesh(box), centre, strict=True))
        a, b, c = (x * d[0] + y * d[1] + z * d[2] for d in (along, across, third))
        wavy = smooth_field(rng, canvas.axes(box), centre - reach, centre + reach, 30)
        a, b, c = (np.float32(1 / factor) * part for part in (a, b, c))
        heart = (np.sqrt((a / 68) ** 2 + (b / 50) ** 2 + (c / 49) ** 2) - 1) * 55 + 1.8 * wavy
        floor = self.diaphragm(*canvas.mesh(box)[:2]) - canvas.mesh(box)[2]
        canvas.paint(box, np.maximum(heart, floor - 6), [(ID["heart_blood"], 0)])
        # Left ventricle: a cup, open towards the base, at the left and back of the heart.
        lv = np.sign(across[0]) * -13  # towards the patient's left
        thick = rng.uniform(9, 12)
        aside = (b - lv) ** 2 + (c - 4) ** 2
        outer = np.sqrt(((a - 8) / 52) ** 2 + aside / 33**2) - 1
        inner = np.sqrt(((a - 2) / (52 - thick)) ** 2 + aside / (33 - thick) ** 2) - 1
        wall = (outer * 33 + 0.8 * wavy < 0) & (inner > 0) & (a > -22)
        view = canvas.labels[box]
        view[wall & (view == ID["heart_blood"])] = ID["myocardium"]
        self.heart_frame = (centre, along, across * np.sign(across[0]), factor)
