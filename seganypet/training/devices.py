"""Devices and processes of a training, and how long processes wait for the first one."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from seganypet.errors import SegAnyPETError, first_line
from seganypet.model.devices import find_device

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# While the first process prepares scans or validates, the others wait. PyTorch's own bounds, ten or thirty minutes, are
# for a network that hangs; the supplement's 5,671 scans take some six hours in four processes.
MAX_WAIT_HOURS = 24.0
LONGEST_WAIT_HOURS = 24.0 * 365
Made = TypeVar("Made")


def open_fabric(
    precision: Any, devices: int | str = "auto", num_nodes: int = 1, device: str = "auto"
) -> "Fabric":
    """Devices to train on, by default as many as `torchrun` or SLURM started processes.

    Args:
        precision: As in `TrainConfig`.
        devices, num_nodes, device: As in `train`.

    Raises:
        SegAnyPETError: No such device; a number of processes that no launcher started.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    place = find_device(device)
    if devices != "auto" and not (str(devices).isdecimal() and int(devices) >= 1):
        raise SegAnyPETError(f'devices={devices!r}; expected "auto" or an integer of at least 1.')
    count = default_devices(place) if devices == "auto" else int(devices)
    _check_launcher(count, num_nodes)
    # The heads for three masks and for predicted IoU get no gradient, which distributed training must be told.
    strategy = DDPStrategy(find_unused_parameters=True) if count * num_nodes > 1 else "auto"
    alone = device != "auto" and place.index is not None
    fabric = Fabric(
        accelerator=place.type, strategy=strategy, devices=[place.index] if alone else count, num_nodes=num_nodes,
        precision=precision,
    )  # fmt: skip
    fabric.launch()
    return fabric


def default_devices(place: torch.device) -> int:
    """Number of devices of this machine: what a launcher started here, else every GPU, else one."""
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):  # of torchrun, of srun
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return max(1, torch.cuda.device_count()) if place.type == "cuda" else 1


def _check_launcher(count: int, num_nodes: int) -> None:
    """Raise SegAnyPETError where processes would wait for others that nobody starts."""
    if num_nodes < 1:
        raise SegAnyPETError(f"num_nodes={num_nodes}; expected an integer of at least 1.")
    if num_nodes > 1 and not {"WORLD_SIZE", "SLURM_NTASKS", "MASTER_ADDR"} & os.environ.keys():
        raise SegAnyPETError(
            f"num_nodes={num_nodes}, but nothing starts the other machines' processes: run on each machine `torchrun "
            f"--nnodes {num_nodes} ... -m seganypet train ...`, or srun in a job of SLURM."
        )
    started = os.environ.get("WORLD_SIZE", "") if "TORCHELASTIC_RUN_ID" in os.environ else ""
    if started.isdecimal() and int(started) != count * num_nodes:
        raise SegAnyPETError(
            f"torchrun started {started} processes, but devices={count} on num_nodes={num_nodes} are "
            f"{count * num_nodes}. Leave out --devices, and give --num-nodes as torchrun's --nnodes."
        )


class FirstProcess:
    """What the first process does alone, while the others wait no longer than a bound.

    Args:
        fabric: The processes.
        max_wait_hours: The bound, in hours.

    Raises:
        SegAnyPETError: A bound that is no time.
    """

    def __init__(self, fabric: "Fabric", max_wait_hours: float = MAX_WAIT_HOURS):
        if not 0 < max_wait_hours <= LONGEST_WAIT_HOURS:
            raise SegAnyPETError(f"max_wait_hours={max_wait_hours}; expected hours, up to {LONGEST_WAIT_HOURS:g}.")
        self.fabric, self.max_wait_hours, self.group = fabric, max_wait_hours, None
        if fabric.world_size > 1:
            # A group of its own: gradients of a device that hangs keep PyTorch's shorter bound.
            self.group = torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=max_wait_hours))
            fabric.print(f"{fabric.world_size} processes; the others wait for the first at most {max_wait_hours:g} h.")

    def __call__(self, work: Callable[[], Made]) -> Made:
        """Result of the work, in all processes.

        Raises:
            SegAnyPETError: In the other processes, if the first one ended or took longer than the bound.
        """
        made: list[Any] = [work() if self.fabric.is_global_zero else None]
        if self.group is not None:
            try:
                torch.distributed.broadcast_object_list(made, src=0, group=self.group)
            except RuntimeError as error:
                late = "timed out" in str(error).lower()
                raise SegAnyPETError(
                    f"process {self.fabric.global_rank} waited {self.max_wait_hours:g} h for the first one to prepare "
                    "scans or to validate. Prepare scans first (--prepare), or raise --max-wait-hours." if late else
                    f"process {self.fabric.global_rank} lost the first one ({first_line(error)}); its error says why."
                ) from error
        return made[0]
