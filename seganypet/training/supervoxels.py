"""Pseudo-targets that need no label: pieces of similar uptake.

Source: future work in the supplement (C.2), after nnInteractive's supervoxels; here by scikit-image's SLIC.
"""

import numpy as np


def grow_supervoxels(suv: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a window into pieces of similar uptake.

    Args:
        suv: Intensities, (n, n, n).
        rng: Source of random numbers, for the number of pieces and their compactness, so that all sizes occur.

    Returns:
        Label map of the pieces, 1 to at most 255, 0 where there is hardly any uptake; (n, n, n) uint8.
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
