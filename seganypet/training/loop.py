"""Train a promptable network: `seganypet train CONFIG.yaml`, or `-m seganypet train` under `torchrun`.

One loop over Lightning Fabric, read from top to bottom. The same command runs on a CPU, a GPU, several GPUs:

    for each optimiser step:
        for each micro-step: samples -> one loss (seganypet.training.objective) -> gradients
        optimiser, learning rate, running average of weights
        now and then: checkpoint, and at the end of an epoch validation on whole volumes

Samples and clicks depend on the seed and the step alone. So an interrupted run, at whatever moment it was killed,
resumes from its last checkpoint and ends with the weights of an unbroken one.
"""

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seganypet._files import as_path
from seganypet.errors import SegAnyPETError
from seganypet.model.checkpoints import load_model, save_model, weights_sha256
from seganypet.model.sam3d import Sam3D
from seganypet.study.workers import check_workers
from seganypet.training.bookkeeping import (
    append_row,
    forget_rows_after,
    load_checkpoint,
    only_run,
    update_average,
    warm_up_then_cosine,
    write_whole,
)  # fmt: skip
from seganypet.training.config import TrainConfig
from seganypet.training.devices import MAX_WAIT_HOURS, FirstProcess, open_fabric
from seganypet.training.objective import Objective
from seganypet.training.provenance import check_same_data, data_of_run
from seganypet.training.samples import TrainingSamples
from seganypet.training.scans import Renewal, ScanBank
from seganypet.training.start import choose_learned, initial_model
from seganypet.training.tracking import Tracker, check_logger
from seganypet.training.validation import draw_sample, validation_cases, validation_dsc

if TYPE_CHECKING:
    from lightning.fabric import Fabric

LOG_EVERY = 10  # optimiser steps
CHECKPOINT_SECONDS = 180  # between checkpoints; one is also written after every epoch
LOGGED = (
    "epoch", "step", "loss_hq", "loss_first_click", "loss_last_click", "loss_readings", "loss_iou", "loss_lq",
    "consistency", "lambda",
    "uncertain_fraction", "changed_fraction", "learning_rate", "wait_fraction", "seconds", "validation_dsc",
)  # fmt: skip


def train(
    config: TrainConfig,
    output: str | Path = "runs",
    *,
    processes: int = 4,
    devices: int | str = "auto",
    num_nodes: int = 1,
    device: str = "auto",
    max_wait_hours: float = MAX_WAIT_HOURS,
    logger: str = "csv",
    progress: bool = True,
) -> Sam3D:
    """Train a network, or resume its training.

    Files in `output`: `<name>.safetensors`, the weights that were best at validation; `<name>-last.safetensors`, the
    newest; `<name>.csv`, the log; `<name>.ckpt`, the checkpoint; `<name>-epoch-NNN.png`, pictures; `scans/`.

    Args:
        config: Settings of the run.
        output: Folder of all files; made if missing.
        processes: Number of processes that prepare scans before the first step, and that load samples for each GPU.
        devices: Number of devices on each machine; "auto": what `torchrun` or SLURM started, else every GPU.
        num_nodes: Number of machines, under `torchrun`.
        device: Kind of device, "auto", "cpu", "cuda" or "mps"; "cuda:1" trains on that one alone.
        max_wait_hours: How long other processes wait while the first one prepares scans or validates, in hours.
        logger: "csv"; or "tensorboard" or "mlflow", which show the same numbers, see `tracking.Tracker`.
        progress: Whether to show progress bars.

    Returns:
        The network with the best averaged weights, in evaluation mode, on the CPU.

    Raises:
        SegAnyPETError: Unusable data, named case by case before the first step; a checkpoint of other settings, cases
            or windows; the same run in another process; a full disk. Nothing that was finished is lost.

    Warns:
        UserWarning: The cohort has no labelled case of split "val", so the last epoch is kept.
    """
    check_logger(logger)
    check_workers(processes)
    fabric = open_fabric(config.precision, devices, num_nodes, device)
    first, output = FirstProcess(fabric, max_wait_hours), as_path(output)
    with only_run(output, config.name) if fabric.is_global_zero else nullcontext():
        bank = open_bank(config, output)  # a faulty cohort is refused before weights are downloaded
        cases = validation_cases(config) if fabric.is_global_zero else []
        torch.manual_seed(config.seed)
        model = initial_model(config, say=fabric.print)
        measured, data = first(lambda: (
            bank.fill(processes, progress), data_of_run(bank, TrainingSamples(config, model.config, bank))
        ))  # fmt: skip
        run = Run(config, model, bank, cases, output, fabric, first, measured, data)
        run.resume(logger)
        run.go(processes, progress)
        fabric.barrier()
    return cast(Sam3D, load_model(output / f"{config.name}.safetensors", device="cpu"))


def prepare(config: TrainConfig, output: str | Path = "runs", *, processes: int = 4, progress: bool = True) -> int:
    """Prepare the scans of a run, and no more, e.g. before many devices would wait for them.

    Args:
        config: Settings of the run.
        output: Folder of the run; made if missing.
        processes: Number of processes.
        progress: Whether to show a progress bar.

    Returns:
        Number of scans.

    Raises:
        SegAnyPETError: Unusable data, named case by case.
    """
    check_workers(processes)
    bank = open_bank(config, as_path(output))
    bank.fill(processes, progress)
    return len(bank)


def open_bank(config: TrainConfig, output: Path) -> ScanBank:
    """The scans of a run, which need not be on disk yet; SegAnyPETError if batches cannot be made of them."""
    bank = ScanBank(config.data, output / "scans")
    bank.check_batches(config)
    return bank


class Run:
    """The state of a training and the loop that advances it.

    Attributes:
        step: Number of optimiser steps done.
        best: Validation DSC of the weights in `<name>.safetensors`; -1 before the first validation.
        settings, data: What a checkpoint must share with the run that resumes from it.
        metadata: What is written into the weights' files.
    """

    def __init__(
        self, config: TrainConfig, model: Sam3D, bank: ScanBank, cases: list, output: Path, fabric: "Fabric",
        first: FirstProcess, measured: dict[str, float], data: dict[str, Any],
    ):  # fmt: skip
        self.config, self.bank, self.cases, self.output, self.fabric = config, bank, cases, output, fabric
        self.first, self.data = first, data
        self.model = model.train()
        choose_learned(model, config.learned)
        windows = len(bank) * config.data.windows_per_case
        self.steps_per_epoch = config.steps_per_epoch or math.ceil(
            windows / (config.batch_size * config.accumulate * fabric.world_size)
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
        training, start = json.loads(json.dumps(asdict(config))), weights_sha256(model)
        self.settings = training | {"number of devices": fabric.world_size, "starting weights": start}
        self.metadata = measured | {
            "training": training, "starting_weights_sha256": start, "readings": config.readings,
            "torch": torch.__version__,
        }  # fmt: skip
        self.checkpoint = output / f"{config.name}.ckpt"
        self.log = output / f"{config.name}.csv"

    def go(self, processes: int, progress: bool) -> None:
        """Train to the end."""
        from tqdm.auto import tqdm

        config, fabric = self.config, self.fabric
        batches = self.batches(processes)
        started = saved = time.perf_counter()
        waited = 0.0
        show = progress and fabric.is_global_zero
        bar = tqdm(total=self.steps, initial=self.step, desc=config.name, unit="step", disable=not show)
        while self.step < self.steps:
            rng = np.random.default_rng([config.seed, self.step])  # the same on every device
            clicks = 2 + int(rng.triangular(0, 0, config.max_clicks - 1))  # few clicks more often
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * group["factor"] * self.learning_rate_factor()
            for micro_step in range(config.accumulate):
                asked = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - asked
                self.seed_clicks(micro_step)
                # Only the last micro-step needs gradients of the other devices.
                with fabric.no_backward_sync(self.objective, enabled=micro_step < config.accumulate - 1):
                    loss, logs = self.objective(
                        batch["suv"], batch["label"], batch["lq"], clicks, self.step / self.steps
                    )
                    fabric.backward(loss / config.accumulate)
            fabric.clip_gradients(self.objective, self.optimiser, max_norm=1.0, error_if_nonfinite=False)
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            self.step += 1
            update_average(self.average, self.model, config.ema, self.step)
            bar.update()
            end_of_epoch = self.step % self.steps_per_epoch == 0
            due = end_of_epoch or time.perf_counter() - saved > CHECKPOINT_SECONDS
            if (due or self.step % LOG_EVERY == 0) and not torch.isfinite(loss):
                raise SegAnyPETError(
                    f"{config.name}: the loss is {loss.item()} at step {self.step}; training diverged. The last "
                    "checkpoint predates that: lower learning_rate, or use precision 32-true, under another name."
                )
            if self.step % LOG_EVERY == 0 or self.step == self.steps:
                seconds = time.perf_counter() - started
                self.write_log(logs | {"seconds": seconds, "wait_fraction": waited / seconds})
            if end_of_epoch:
                self.first(partial(self.end_epoch, self.step // self.steps_per_epoch))
            if due:
                self.save()
                saved = time.perf_counter()
        bar.close()
        self.tracker.close()

    def batches(self, processes: int) -> Iterator[dict[str, Tensor]]:
        """Batches from the present step on, on this device; each epoch has its own scans."""
        renewal = Renewal(self.config.data, self.bank.folder)
        while self.step < self.steps:
            epoch = self.step // self.steps_per_epoch
            bank = renewal.bank(epoch, last=epoch == self.config.epochs - 1)
            yield from self.batches_of(bank, range(self.step, (epoch + 1) * self.steps_per_epoch), processes)

    def batches_of(self, bank: ScanBank, steps: range, processes: int) -> Iterator[dict[str, Tensor]]:
        """Batches of some steps, on this device."""
        config, fabric = self.config, self.fabric
        on_gpu = fabric.device.type == "cuda"
        a_step = config.accumulate * fabric.world_size
        batches = range(steps.start * a_step, steps.stop * a_step)  # dealt out to the devices in turn
        numbers = [
            list(range(batch * config.batch_size, (batch + 1) * config.batch_size))
            for batch in batches[fabric.global_rank :: fabric.world_size]
        ]
        loader = DataLoader(
            TrainingSamples(config, self.model.config, bank), batch_sampler=numbers,
            num_workers=processes if on_gpu else 0, persistent_workers=False, pin_memory=on_gpu,
        )  # fmt: skip
        yield from cast(DataLoader, fabric.setup_dataloaders(loader, use_distributed_sampler=False))

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

    def end_epoch(self, epoch: int) -> None:
        """Validate if it is time, keep the best weights, write the newest; the first process does."""
        validation = self.config.validation
        due = bool(self.cases) and (self.step == self.steps or epoch % validation.every == 0)
        model = Sam3D(self.model.config).eval().requires_grad_(False)
        model.load_state_dict(self.average)
        model.name = self.config.name
        score = -1.0
        if due:
            score = validation_dsc(model.to(self.fabric.device), self.cases, validation.clicks)
            self.write_log({"validation_dsc": torch.tensor(score)})
            draw_sample(model, self.cases[0], self.output / f"{self.config.name}-epoch-{epoch:03d}.png")
        metadata = self.metadata | {"step": self.step, "validation_dsc": score if due else None}
        write = partial(save_model, model=model, name=self.config.name, metadata=metadata)
        write_whole(self.output / f"{self.config.name}-last.safetensors", write)
        if score > self.best or not self.cases:
            self.best = score
            write_whole(self.output / f"{self.config.name}.safetensors", write)

    def save(self) -> None:
        """Write all that `resume` needs; other devices need not wait, as nothing but the disk changes."""
        if self.fabric.is_global_zero:
            state = {
                "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "average": self.average,
                "step": self.step, "best": self.best, "settings": self.settings, "data": self.data,
            }  # fmt: skip
            write_whole(self.checkpoint, lambda path: torch.save(state, path))

    def resume(self, logger: str) -> None:
        """Continue from the checkpoint, if there is one, and open the logs.

        Raises:
            SegAnyPETError: The checkpoint is damaged, or has other settings or data.
        """
        if self.checkpoint.exists():
            state = load_checkpoint(self.checkpoint, self.settings)
            check_same_data(self.checkpoint, state.get("data"), self.data)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            for name, value in state["average"].items():
                self.average[name].copy_(value)
            self.step, self.best = state["step"], state["best"]
            self.fabric.print(
                f"{self.config.name} is finished: all {self.steps} steps are done. For another run, give another name."
                if self.step == self.steps
                else f"{self.config.name} resumes after step {self.step} of {self.steps}."
            )
        if self.fabric.is_global_zero:
            forget_rows_after(self.log, self.step)
        here = logger if self.fabric.is_global_zero else "csv"
        self.tracker = Tracker(here, self.config.name, self.output, self.settings, self.step)

    def write_log(self, logs: dict[str, Any]) -> None:
        """Append one row to the log."""
        if not self.fabric.is_global_zero:
            return
        row: dict[str, float] = {"epoch": math.ceil(self.step / self.steps_per_epoch), "step": self.step}
        row |= {"learning_rate": self.config.learning_rate * self.learning_rate_factor()}
        row |= {name: value.item() if isinstance(value, Tensor) else value for name, value in logs.items()}
        if "loss_lq" in row:
            row["lambda"] = self.objective.weights(self.step / self.steps)[1]
        append_row(self.log, LOGGED, row)
        self.tracker.log(row)
