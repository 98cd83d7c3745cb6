"""How fast training is: `python -m benchmarks.train_speed`; part of `make bench`.

Prints a table and writes it to train_speed.md and train_speed.csv beside this file. One run on two threads, float32,
what is compared interleaved, medians after a warm-up. *Plain* is the release's order of operations with every
attention logit in memory (tests/plain_encoder.py), differentiated by PyTorch as ours is. Linux only: it reads /proc.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from benchmarks.run import COLUMNS, SEED, THREADS, at_least, interleaved, machine, markdown
from seganypet.losses import dice_ce
from seganypet.model.config import RELEASED
from seganypet.model.sam3d import Sam3D
from seganypet.training.config import DataConfig, load_config
from seganypet.training.objective import Objective
from seganypet.training.samples import TrainingSamples
from seganypet.training.scans import ScanBank
from seganypet.training.start import initial_model
from tests.plain_encoder import plain_encoder

HERE = Path(__file__).parent


def released_rows(repeats: int) -> list[tuple]:
    """One window of 128^3 with the released width: encoder, decoder, losses, and the step that they make up."""
    torch.manual_seed(SEED)
    model = Sam3D(RELEASED)
    for name, parameter in model.image_encoder.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    weights = dict(model.image_encoder.named_parameters())
    window = torch.randn(1, 1, *[RELEASED.window_size] * 3)
    axis = torch.arange(RELEASED.window_size) - 63.5
    label = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < 30**2).float()[None, None]
    soft_label = F.avg_pool3d(label, 4)
    clicks, signs = torch.full((1, 1, 3), 64.0), torch.ones(1, 1)

    def plain() -> torch.Tensor:
        return plain_encoder(weights, window)

    def ours() -> torch.Tensor:
        return model.image_encoder(window).tokens

    def decode(tokens: torch.Tensor) -> torch.Tensor:
        return model.decode(type(embedding)(tokens), clicks, signs, model.no_logits())[0]

    def loss_window(logits: torch.Tensor) -> torch.Tensor:
        return dice_ce(model.upscale(logits), label)

    def loss_logits(logits: torch.Tensor) -> torch.Tensor:
        return dice_ce(logits, soft_label)

    def step(encoder, loss) -> None:
        loss(decode(encoder())).backward()
        model.zero_grad()

    with torch.no_grad():
        embedding = model.embed(window)
        logits = decode(embedding.tokens)
    tokens = embedding.tokens.requires_grad_()
    logits.requires_grad_()
    encoder_plain, encoder_ours, decoder, at_window, at_logits, step_plain, step_ours, step_coarse = interleaved(
        [
            lambda: plain().sum().backward(),
            lambda: ours().sum().backward(),
            lambda: decode(tokens).sum().backward(),
            lambda: loss_window(logits).backward(),
            lambda: loss_logits(logits).backward(),
            lambda: step(plain, loss_window),
            lambda: step(ours, loss_window),
            lambda: step(ours, loss_logits),
        ],
        repeats,
    )
    fine, coarse = (torch.autograd.grad(loss(logits), logits)[0].flatten() for loss in (loss_window, loss_logits))
    alike = F.cosine_similarity(fine, coarse, dim=0).item()
    remark = f"median of {repeats}, interleaved; forward and backward, float32, batch 1"
    return [
        ("encoder 128^3, released width: plain", f"{encoder_plain:.2f} s", "", "", remark),
        ("encoder 128^3, released width: ours", f"{encoder_ours:.2f} s", "", "", ""),
        at_least("encoder 128^3, released width: plain / ours", encoder_plain / encoder_ours, 8),
        ("prompt encoder and mask decoder, one click", f"{decoder:.3f} s", "", "", ""),
        ("DiceCE at 128^3", f"{at_window:.3f} s", "", "", "logits upscaled, as released"),
        ("DiceCE on the logits' grid, 32^3", f"{at_logits:.4f} s", "", "",
         f"its gradient points the same way: cosine {alike:.3f} on a ball of 45 mm radius"),
        ("whole step: plain", f"{step_plain:.2f} s", "", "", "encoder, one click, DiceCE at 128^3"),
        ("whole step: ours", f"{step_ours:.2f} s", "", "", "the same work"),
        ("whole step: plain / ours", f"{step_plain / step_ours:.1f} x", "", "", ""),
        ("whole step: ours, DiceCE on the logits' grid", f"{step_coarse:.2f} s", "", "", ""),
    ]  # fmt: skip


def tiny_rows(repeats: int) -> list[tuple]:
    """One step of tiny.yaml, and what of it is loading samples."""
    config = load_config(HERE.parent / "seganypet" / "configs" / "tiny.yaml")
    model = initial_model(config, lambda text: None).train().requires_grad_(True)
    objective = Objective(model, config)
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(hq=1, lq=1, first_seed=config.data.first_seed)
        bank = ScanBank(data, Path(folder))
        bank.fill(THREADS)
        samples = TrainingSamples(config, model.config, bank)

        def load() -> dict[str, torch.Tensor]:
            return torch.utils.data.default_collate([samples[number] for number in range(config.batch_size)])

        batch = load()

        def encode() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                embedding = model.embed(model.normalise(batch["suv"]))
            sum(part.float().sum() for part in embedding if part is not None).backward()

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                loss, _ = objective(batch["suv"], batch["label"], batch["lq"], 4, 0.5)
            loss.backward()
            model.zero_grad()

        loading, encoding, whole = interleaved([load, encode, step], repeats)
    targets = config.batch_size * config.targets_per_window
    return [
        ("tiny.yaml, one step without loading", f"{whole:.2f} s", "", "",
         f"{config.batch_size} windows, {targets} targets, {config.prompts} prompts and 4 clicks; bfloat16"),
        ("of it: image encoder", f"{encoding:.2f} s", "", "", ""),
        ("loading its samples", f"{loading:.3f} s", "", "",
         f"in the same process: {loading / (whole + loading):.1%} of a step"),
    ]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="measure once, write nothing")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    repeats = 1 if options.quick else 5
    table = pd.DataFrame([*released_rows(repeats), *tiny_rows(repeats)], columns=COLUMNS)
    text = f"{machine()}\n\n{markdown(table)}\n"
    print(text)
    if not options.quick:
        (HERE / "train_speed.md").write_text(f"# Speed of training\n\n`make bench` wrote this file.\n\n{text}")
        table.to_csv(HERE / "train_speed.csv", index=False)


if __name__ == "__main__":
    main()
