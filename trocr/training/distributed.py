"""Training in several processes that `torchrun` starts: DDP copies the model, FSDP shards it.

Every process computes its part of the loss divided by the tokens of all processes; `train_steps` sums the
parts, so that the gradient is the one that a single process would find for the whole batch.

Source: PyTorch's `torchrun`, `DistributedDataParallel` and `fully_shard` (FSDP2).
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trocr.decoder import DecoderBlock, TextDecoder
from trocr.encoder import EncoderBlock
from trocr.training.objective import Objective

TIMEOUT = timedelta(hours=2)
"""Longest that processes wait for one another: one of them validates and saves."""


class DistributedError(ValueError):
    """The processes of a run cannot work together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: of this process, from 0.
        world_size: number of processes.
        device: of this process.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0


@contextmanager
def processes(device: Literal["auto", "cpu", "cuda"] = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, for the length of a `with` block; alone without torchrun.

    They talk by nccl on GPUs and by gloo on CPUs.

    Args:
        device: "auto" takes a GPU where there is one.
    Raises:
        DistributedError: no such device, fewer GPUs than processes, or torchrun's variables are incomplete.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise DistributedError("run.device='cuda': this machine has no CUDA device; use 'cpu' or 'auto'")
    kind = "cuda" if has_cuda and device != "cpu" else "cpu"
    if "RANK" not in os.environ:
        yield Processes(device=torch.device(kind))
        return
    rank, world_size, local_rank = _torchrun_numbers()
    place = torch.device(kind)
    if kind == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise DistributedError(
                f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}; "
                f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Processes(rank=rank, world_size=world_size, device=place)
        dist.barrier()  # a process that leaves while others still talk to it can be aborted by gloo
    finally:
        gc.collect()  # what DDP holds of the group goes before the group
        dist.destroy_process_group()


def _torchrun_numbers() -> tuple[int, int, int]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise DistributedError(
            f"RANK is set and {', '.join(missing)} is not; start with `torchrun --nproc-per-node N SCRIPT`, "
            "or unset RANK to train in one process"
        )
    rank, world_size, local_rank = (int(os.environ[name]) for name in names[:3])
    return rank, world_size, local_rank


def wrap(objective: Objective, here: Processes, kind: Literal["ddp", "fsdp"] = "ddp") -> nn.Module:
    """Make the processes train one model; alone, the objective is given back as it is.

    Args:
        objective: on its device, with the same weights in all processes.
        here: this process.
        kind: "ddp" keeps the whole model in each process; "fsdp" shards weights, gradients and optimizer, and
            gathers the weights of one block at a time.
    """
    if here.world_size == 1:
        return objective
    if kind == "fsdp":
        return _shard(objective, here)
    skips_blocks = any(isinstance(m, TextDecoder) and m.layerdrop > 0 for m in objective.modules())
    return nn.parallel.DistributedDataParallel(
        objective,
        device_ids=[here.device] if here.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=skips_blocks,
    )


def _shard(objective: Objective, here: Processes) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(here.device.type, (here.world_size,))
    for module in objective.modules():
        if isinstance(module, EncoderBlock | DecoderBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    return objective


def unwrap(objective: nn.Module) -> Objective:
    """Give the `Objective` inside DDP, or the one that FSDP shards."""
    return cast(Objective, getattr(objective, "module", objective))


def full_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather tensors that may be sharded, as copies on the CPU. All processes must call it.

    Returns:
        The tensors by name in the main process; nothing in the others.
    """
    main = rank() == 0
    gathered = {}
    for name, tensor in tensors.items():
        whole = cast(Any, tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor
        if main:
            gathered[name] = whole.detach().to("cpu", copy=True)
    return gathered


def gather(value: Any) -> list[Any]:
    """Collect a small value of each process, in the order of ranks; all processes get the list."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Give all processes the main process's value; they wait for it."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def rank() -> int:
    """Number of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
