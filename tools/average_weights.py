"""Average networks that were trained from the same weights: `python tools/average_weights.py OUT FILE=0.6 FILE=0.4`.

Two runs of one recipe end in different places of one valley, and what lies between them often answers better than
either, above all to what neither was trained on (Wortsman et al., Model soups, ICML 2022). `make train` ends so. Name
and metadata are those of the first; if it has readings that another was never trained for, there they are that one's
single mask, which is where training would begin them.
"""

import argparse
from pathlib import Path

import torch

from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model, save_model, weights_sha256
from seganypet.training.start import begin_readings


@torch.no_grad()
def average(output: Path, parts: list[tuple[str, float]]) -> None:
    """Write the weighted average of some networks.

    Args:
        output: Path of the weights to write.
        parts: Name or path of each network, and its weight; they add up to 1.

    Raises:
        SegAnyPETError: Weights that do not add up to 1; networks of different shapes.
    """
    if abs(sum(weight for _, weight in parts) - 1) > 1e-6:
        raise SegAnyPETError(f"the weights {[weight for _, weight in parts]} do not add up to 1.")
    models = [load_model(name, device="cpu") for name, _ in parts]
    first = models[0]
    mean = {name: torch.zeros_like(value) for name, value in first.state_dict().items()}
    averaged = []
    for model, (source, weight) in zip(models, parts, strict=True):
        if model.config != first.config:
            raise SegAnyPETError(f"{source} is a network of another shape than {parts[0][0]}.")
        averaged.append({"weights_sha256": weights_sha256(model), "weight": weight})
        if first.metadata.get("readings") and not model.metadata.get("readings"):
            begin_readings(model)
        for name, value in model.state_dict().items():
            mean[name] += weight * value
    metadata = {**first.metadata, "averaged": averaged, "validation_dsc": None}
    first.load_state_dict(mean)
    save_model(output, first, output.stem, metadata)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("parts", nargs="+", metavar="FILE=WEIGHT")
    options = parser.parse_args()
    parts = [part.rpartition("=") for part in options.parts]
    average(options.output, [(name, float(weight)) for name, _, weight in parts])


if __name__ == "__main__":
    main()
