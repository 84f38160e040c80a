"""`trocr env`: what this machine computes with, what that means for speed, and what to change.

Source: original work.
"""

import json
from typing import TYPE_CHECKING

import click

from trocr.commands.console import to_bytes

if TYPE_CHECKING:
    from trocr.fast.hardware import Choice, Hardware

GIB = 2**30


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def env(as_json: bool) -> None:
    """Print what was found on this machine, the precision that is quick on it and why, and advice.

    Nothing is downloaded and nothing is measured; the numbers are those of this process, so call it with the
    environment that reading will have.
    """
    from trocr.fast.advice import advice
    from trocr.fast.hardware import choose, find_hardware

    hardware = find_hardware()
    choice, said = choose(hardware), advice(hardware)
    if as_json:
        found = {"hardware": hardware.to_dict(), "choice": choice.to_dict(), "advice": said}
        click.echo(to_bytes(json.dumps(found, indent=1, ensure_ascii=False)))
        return
    rows = [*_found(hardware), *_chosen(choice)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if said:
        lines += ["", "advice", *(f"  - {sentence}" for sentence in said)]
    click.echo(to_bytes("\n".join(lines)))


def _found(hardware: "Hardware") -> list[tuple[str, str]]:
    cores = f"{hardware.physical_cores} physical, {hardware.logical_cores} logical, that this process may use"
    if hardware.quota is not None:
        cores += f"; the time of {hardware.quota:g} is allowed"
    withheld = f"{' '.join(hardware.withheld)} (by {', '.join(sorted(set(hardware.withheld.values())))})"
    return [
        ("processor", f"{hardware.processor} ({hardware.architecture})"),
        ("cores", cores),
        ("instructions", " ".join(hardware.instructions) or "none of those that matter"),
        *([("kept back", withheld)] if hardware.withheld else []),
        ("PyTorch", f"kernels {hardware.kernels}, threads {hardware.threads}"),
        ("oneDNN", hardware.onednn or "missing"),
        ("MKL", ("yes, AVX2 only on AMD" if hardware.mkl_runs_avx2 else "yes") if hardware.has_mkl else "no"),
        ("int8 engines", " ".join(hardware.int8_engines) or "none"),
        ("allocator", hardware.allocator),
        ("huge pages", hardware.huge_pages or "none"),
        ("memory", _memory(hardware)),
        ("GPUs", ", ".join(hardware.gpus) or "none"),
        ("variables", " ".join(f"{key}={value}" for key, value in hardware.variables.items()) or "none"),
        ("versions", ", ".join(f"{name} {version}" for name, version in hardware.versions.items())),
    ]


def _memory(hardware: "Hardware") -> str:
    if hardware.memory is None:
        return "unknown"
    free = "" if hardware.free_memory is None else f", {hardware.free_memory / GIB:.1f} free"
    return f"{hardware.memory / GIB:.1f} GiB{free}"


def _chosen(choice: "Choice") -> list[tuple[str, str]]:
    return [
        ("chosen", choice.dtype_reason),
        ("int8", choice.int8_reason if choice.int8 else f"not possible: {choice.int8_reason}"),
    ]
