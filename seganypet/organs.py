"""The twelve organs that this package segments, in the order of their labels: 1 is the liver.

Seen and unseen organs are the two groups of the supplement's Table 2: SegAnyPET is fine-tuned on the seen ones and
tested on both.
"""

ORGANS = (
    "liver", "kidney_left", "kidney_right", "heart", "spleen", "aorta", "prostate",
    "lung_lower_lobe_left", "lung_lower_lobe_right", "lung_upper_lobe_left", "lung_upper_lobe_right",
    "lung_middle_lobe_right",
)  # fmt: skip
SEEN_ORGANS = ORGANS[:5]
UNSEEN_ORGANS = ORGANS[5:]
