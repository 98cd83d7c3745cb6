"""Train a promptable network: `python -m seganypet.training.loop CONFIG.yaml`, or under `torchrun` on several machines.

One loop over Lightning Fabric, read from top to bottom. The same command runs on a CPU, a GPU, several GPUs:

    for each optimiser step:
        for each micro-step: samples -> one loss (seganypet.training.objective) -> gradients
        optimiser, learning rate, running average of weights
        now and then: checkpoint, and at the end of an epoch validation on whole volumes

Samples and clicks depend on the seed and the step alone, so a run that was killed, at whatever moment, goes on from its
last checkpoint to the weights that an unbroken one would have.
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seganypet._files import replace_atomically
from seganypet.errors import CheckpointError, SegAnyPETError
from seganypet.model.checkpoints import load_model, save_model, weights_sha256
from seganypet.model.config import ModelConfig
from seganypet.model.sam3d import Sam3D
from seganypet.training.config import TrainConfig
from seganypet.training.objective import Objective
from seganypet.training.samples import TrainingSamples, WindowBank
from seganypet.training.validation import draw_sample, validation_cases, validation_dsc

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LOG_EVERY = 10  # optimiser steps
LOGGED = (
    "epoch", "step", "loss", "loss_first_click", "loss_last_click", "loss_doubtful", "consistency", "lambda",
    "doubtful_share", "changed_share", "learning_rate", "wait_share", "seconds", "validation_dsc",
)  # fmt: skip


def train(
    config: TrainConfig,
    output: str | Path = "runs",
    *,
    processes: int = 2,
    fabric: "Fabric | None" = None,
    progress: bool = True,
) -> Sam3D:
    """Run one training, or go on with it.

    Files in `output`: `<name>.safetensors`, the weights that were best at validation; `<name>-last.safetensors`, the
    newest; `<name>.csv`, the log; `<name>.ckpt`, to go on from; `<name>-epoch-NNN.png`, pictures; `windows/`.

    Args:
        config: What to do.
        output: Folder; made if missing.
        processes: That cut windows before the first step.
        fabric: Devices; those that the machine has unless given.
        progress: Show progress bars.

    Returns:
        The network with the best averaged weights, in evaluation mode, on the CPU.

    Raises:
        SegAnyPETError: Unusable data, named case by case before the first step; a checkpoint of other settings; a disk
            that is full. Nothing that was finished is lost.
    """
    fabric = fabric or open_fabric(config)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = initial_model(config, say=fabric.print)
    bank = WindowBank(config.data, model.config.window_size, model.config.spacing_mm, output / "windows")
    facts = fabric.broadcast(bank.fill(processes, progress) if fabric.is_global_zero else {})
    run = Run(config, model, bank, output, fabric, facts, progress)
    if run.checkpoint.exists():
        run.resume()
    run.go()
    fabric.barrier()
    return load_model(output / f"{config.name}.safetensors")


def open_fabric(config: TrainConfig, devices: int | str = "auto", num_nodes: int = 1) -> "Fabric":
    """Devices to train on; under `torchrun` those that it gives."""
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    count = max(1, torch.cuda.device_count()) if devices == "auto" else int(devices)
    # The heads for three masks and for predicted IoU get no gradient, which distributed training must be told.
    strategy = DDPStrategy(find_unused_parameters=True) if count * num_nodes > 1 else "auto"
    fabric = Fabric(
        accelerator=accelerator, strategy=strategy, devices=count, num_nodes=num_nodes, precision=config.precision
    )
    fabric.launch()
    return fabric


def initial_model(config: TrainConfig, say: Callable[[str], None] = print) -> Sam3D:
    """The network that training starts from: random, or `config.init`, as far as its weights fit `config.model`."""
    if config.init is None:
        return Sam3D(config.model or ModelConfig())
    given = load_model(config.init)
    model = Sam3D(config.model or given.config)
    ours, theirs = model.state_dict(), given.state_dict()
    fitting = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
    if not fitting:
        raise CheckpointError(f"{config.init}: none of its {len(theirs)} tensors fits the network of {config.name}.")
    model.load_state_dict(fitting, strict=False)
    new, left = sorted(set(ours) - set(fitting)), sorted(set(theirs) - set(fitting))
    say(f"{config.name} starts from {config.init}: {len(fitting)} of {len(ours)} tensors.")
    if new:
        say(f"  Random instead, as it has none that fit: {', '.join(new)}.")
    if left:
        say(f"  Left out, as nothing here takes them: {', '.join(left)}.")
    return model


class Run:
    """The state of a training and the loop that moves it on.

    Attributes:
        step: Optimiser steps done.
        best: Validation DSC of the weights in `<name>.safetensors`; -1 before the first validation.
    """

    def __init__(
        self, config: TrainConfig, model: Sam3D, bank: WindowBank, output: Path, fabric: "Fabric", facts: dict,
        progress: bool,
    ):  # fmt: skip
        self.config, self.bank, self.output, self.fabric, self.progress = config, bank, output, fabric, progress
        self.model = model.train().requires_grad_(True)
        self.steps_per_epoch = config.steps_per_epoch or math.ceil(
            len(bank) / (config.batch_size * config.accumulate * fabric.world_size)
        )
        self.steps = config.epochs * self.steps_per_epoch
        decoder = [*model.prompt_encoder.parameters(), *model.mask_decoder.parameters()]
        groups = [
            {"params": list(model.image_encoder.parameters()), "factor": 1.0},
            {"params": decoder, "factor": config.decoder_factor},
        ]
        optimiser = torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)
        self.objective, self.optimiser = fabric.setup(Objective(model, config), optimiser)
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}  # on the device
        self.step, self.best = 0, -1.0
        self.facts = facts | {
            "training": json.loads(json.dumps(asdict(config))), "starting_weights_sha256": weights_sha256(model),
            "torch": torch.__version__,
        }  # fmt: skip
        self.checkpoint = output / f"{config.name}.ckpt"
        self.log = output / f"{config.name}.csv"
        self.cases = validation_cases(config) if fabric.is_global_zero else []

    def go(self) -> None:
        """Train to the end."""
        from tqdm.auto import tqdm

        config, fabric = self.config, self.fabric
        batches = self.batches()
        started = saved = time.perf_counter()
        waited = 0.0
        show = self.progress and fabric.is_global_zero
        bar = tqdm(total=self.steps, initial=self.step, desc=config.name, unit="step", disable=not show)
        while self.step < self.steps:
            rng = np.random.default_rng([config.seed, self.step])  # the same on every device
            clicks = 2 + int(rng.triangular(0, 0, config.max_clicks - 1))  # short dialogues more often
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * group["factor"] * self.learning_rate_factor()
            for micro_step in range(config.accumulate):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                self.seed_clicks(micro_step)
                # Only the last micro-step needs gradients of the other devices.
                with fabric.no_backward_sync(self.objective, enabled=micro_step < config.accumulate - 1):
                    loss, told = self.objective(
                        batch["suv"], batch["label"], batch["doubtful"], clicks, self.step / self.steps
                    )
                    fabric.backward(loss / config.accumulate)
            fabric.clip_gradients(self.objective, self.optimiser, max_norm=1.0, error_if_nonfinite=False)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.step += 1
            self.update_average()
            bar.update()
            end_of_epoch = self.step % self.steps_per_epoch == 0
            due = end_of_epoch or time.perf_counter() - saved > 60 * config.checkpoint_minutes
            if (due or self.step % LOG_EVERY == 0) and not torch.isfinite(loss):
                raise SegAnyPETError(
                    f"{config.name}: the loss is {loss.item()} at step {self.step}; training diverged. The last "
                    "checkpoint is from before: lower learning_rate, or use precision 32-true, under another name."
                )
            if self.step % LOG_EVERY == 0 or self.step == self.steps:
                seconds = time.perf_counter() - started
                self.write_log(told | {"seconds": seconds, "wait_share": waited / seconds})
            if end_of_epoch:
                self.end_epoch(self.step // self.steps_per_epoch)
            if due:
                self.save()
                saved = time.perf_counter()
        bar.close()

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Batches from the present step on, on this device."""
        config, fabric = self.config, self.fabric
        workers = config.workers if config.workers is not None else 4 * (fabric.device.type == "cuda")
        a_step = config.accumulate * fabric.world_size
        batches = range(self.step * a_step, self.steps * a_step)  # dealt out to the devices in turn
        numbers = [
            range(batch * config.batch_size, (batch + 1) * config.batch_size)
            for batch in batches[fabric.global_rank :: fabric.world_size]
        ]
        loader = DataLoader(
            TrainingSamples(config, self.bank), batch_sampler=numbers, num_workers=workers,
            persistent_workers=False, pin_memory=fabric.device.type == "cuda",
        )  # fmt: skip
        return iter(fabric.setup_dataloaders(loader, use_distributed_sampler=False))

    def seed_clicks(self, micro_step: int) -> None:
        """Simulated clicks depend on seed, step and device; seeded after loading, which may draw numbers of its own."""
        number = self.step * self.config.accumulate + micro_step
        torch.manual_seed((self.config.seed * 1_000_003 + number) * self.fabric.world_size + self.fabric.global_rank)

    def learning_rate_factor(self) -> float:
        """Multiple of the learning rate at the present step."""
        config = self.config
        if config.schedule == "multistep":
            epoch = self.step // self.steps_per_epoch
            return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
        return warm_up_then_cosine(self.step, self.steps, config.warm_up)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the running average of weights on; young averages forget faster."""
        decay = min(self.config.ema, 1 - 1 / (self.step + 1)) if self.config.ema else 0.0
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def end_epoch(self, epoch: int) -> None:
        """Validate if it is time, keep the best weights, write the newest."""
        validation = self.config.validation
        due = bool(self.cases) and (self.step == self.steps or epoch % validation.every == 0)
        if self.fabric.is_global_zero:
            model = Sam3D(self.model.config).eval().requires_grad_(False)
            model.load_state_dict(self.average)
            model.name = self.config.name
            score = -1.0
            if due:
                score = validation_dsc(model.to(self.fabric.device), self.cases, validation.clicks)
                self.write_log({"validation_dsc": torch.tensor(score)})
                draw_sample(model, self.cases[0], self.output / f"{self.config.name}-epoch-{epoch:03d}.png")
            facts = self.facts | {"step": self.step, "validation_dsc": score if due else None}
            self.keep(lambda path: save_model(path, model, self.config.name, facts), "-last.safetensors")
            if score > self.best or not self.cases:
                self.best = score
                self.keep(lambda path: save_model(path, model, self.config.name, facts), ".safetensors")
        self.fabric.barrier()

    def keep(self, write: Callable[[Path], None], suffix: str) -> None:
        """Write a file; if the disk is full, say what is safe."""
        path = self.output / f"{self.config.name}{suffix}"
        try:
            write(path)
        except (OSError, RuntimeError) as error:
            if isinstance(error, SegAnyPETError):
                raise
            raise SegAnyPETError(
                f"cannot write {path} ({first_line(error)}). The files of the last checkpoint are whole: make "
                "room on the disk, start the same command again, and it goes on from there."
            ) from error

    def save(self) -> None:
        """Write all that `resume` needs; complete or as before."""
        if self.fabric.is_global_zero:
            state = {
                "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "average": self.average,
                "step": self.step, "best": self.best, "settings": self.facts["training"],
                "world_size": self.fabric.world_size, "starting_weights": self.facts["starting_weights_sha256"],
            }  # fmt: skip

            def write(path: Path) -> None:
                with replace_atomically(path) as temporary:
                    torch.save(state, temporary)

            self.keep(write, ".ckpt")
        self.fabric.barrier()

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises:
            SegAnyPETError: Made with other settings, or unreadable.
        """
        try:
            state = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
            settings, world_size, start = state["settings"], state["world_size"], state["starting_weights"]
        except Exception as error:
            raise CheckpointError(
                f"{self.checkpoint}: not a checkpoint of this trainer, or damaged ({first_line(error)}). Remove it to "
                "start from the beginning, or put back a copy."
            ) from error
        ours = self.facts["training"]
        changed = sorted(key for key in ours if ours[key] != settings.get(key))
        if world_size != self.fabric.world_size:
            changed.append(f"number of devices ({world_size})")
        if start != self.facts["starting_weights_sha256"]:
            changed.append("starting weights")
        if changed:
            raise SegAnyPETError(
                f"{self.checkpoint} was made with another {', '.join(changed)}; a run goes on with its own settings "
                "only. Put them back, give the run another name, or remove the checkpoint."
            )
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name, value in state["average"].items():
            self.average[name].copy_(value)
        self.step, self.best = state["step"], state["best"]
        forget_rows_after(self.log, self.step)

    def write_log(self, told: dict[str, Any]) -> None:
        """Append one row to the log."""
        if not self.fabric.is_global_zero:
            return
        config = self.config
        row = {"epoch": math.ceil(self.step / self.steps_per_epoch), "step": self.step}
        row |= {"learning_rate": config.learning_rate * self.learning_rate_factor()}
        row |= {name: value.item() if isinstance(value, Tensor) else value for name, value in told.items()}
        if "loss_doubtful" in row:
            row["lambda"] = self.objective.weights(self.step / self.steps)[1]
        fresh = not self.log.exists()
        with self.log.open("a", newline="") as file:
            writer = csv.DictWriter(file, LOGGED)
            if fresh:
                writer.writeheader()
            writer.writerow({name: f"{value:.5g}" for name, value in row.items()})


def warm_up_then_cosine(step: int, steps: int, warm_up: int) -> float:
    """Linear warm-up, then a cosine down to 0.

    >>> [round(warm_up_then_cosine(step, 1000, 200), 2) for step in (0, 199, 600, 1000)]
    [0.01, 1.0, 0.5, 0.0]
    """
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def first_line(error: Exception) -> str:
    """What an error says, short; its kind if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def forget_rows_after(log: Path, step: int) -> None:
    """Take rows out of a log that a resumed run will write again."""
    if not log.exists():
        return
    with log.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
    with replace_atomically(log) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, LOGGED)
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m seganypet.training.loop", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="YAML file, e.g. seganypet/configs/tiny.yaml")
    parser.add_argument("--init", help="name or path of weights to start from, instead of the config's")
    parser.add_argument("--cohort", help="cohort table to train on, instead of the config's data")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder for everything (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="that cut the training windows (%(default)s)")
    parser.add_argument("--devices", default="auto", help="number of devices on each machine (%(default)s)")
    parser.add_argument("--num-nodes", type=int, default=1, help="number of machines, under torchrun (%(default)s)")
    parser.add_argument("--prepare", action="store_true", help="only cut the windows, e.g. before many devices wait")
    options = parser.parse_args(arguments)
    try:
        config = TrainConfig.from_yaml(options.config, **({"init": options.init} if options.init else {}))
        if options.cohort:
            config = replace(config, data=replace(config.data, cohort=options.cohort))
        if options.prepare:
            shape = initial_model(config).config
            bank = WindowBank(config.data, shape.window_size, shape.spacing_mm, options.output / "windows")
            print(f"{len(bank)} windows; {bank.fill(options.processes)}")
            return
        train(config, options.output, processes=options.processes,
              fabric=open_fabric(config, options.devices, options.num_nodes))  # fmt: skip
    except SegAnyPETError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
