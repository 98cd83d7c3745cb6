"""Pseudo-targets that need no label: the pieces into which an image falls by itself.

Source: named as future work in the supplement (C.2), after nnInteractive's supervoxels; pieces by SLIC, scikit-image.
"""

import numpy as np


def supervoxels(suv: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a window into pieces of similar uptake.

    Args:
        suv: (n, n, n).
        rng: Draws how many pieces there are and how much compactness counts, so that pieces of all sizes occur.

    Returns:
        1 to at most 255, 0 where there is hardly any uptake; (n, n, n) uint8.
    """
    from skimage.segmentation import slic  # slow to import

    image = np.log1p(np.maximum(suv.astype(np.float32), 0))
    body = image > 0.1
    if not body.any():
        return np.zeros(suv.shape, np.uint8)
    pieces = int(np.exp(rng.uniform(np.log(12), np.log(150))))
    compactness = float(np.exp(rng.uniform(np.log(0.003), np.log(0.1))))
    labels = slic(image, pieces, compactness, max_num_iter=4, sigma=1, channel_axis=None, mask=body)
    return np.where(labels <= 255, labels, 0).astype(np.uint8)
