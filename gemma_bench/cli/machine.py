"""`gemma-bench check`: what this machine is, what can run here, and what cannot and why."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

from rich.table import Table

from gemma_bench.cli.console import Json, output, print_json
from gemma_bench.core.errors import DamagedFileError, UnavailableError
from gemma_bench.core.known_machines import KNOWN_MACHINES
from gemma_bench.core.machine import Machine, this_machine
from gemma_bench.core.units import GIB, gigabytes

_USABLE = 0.9
"""The share of memory that weights may take: system, cache and activations need the rest."""


class Ability(NamedTuple):
    """One thing that may or may not run here."""

    what: str
    is_available: bool
    why: str


def check(json: Json = False) -> None:
    """Show this machine, its backends, and what can run here."""
    machine, abilities = this_machine(), list(_abilities())
    if json:
        print_json({"machine": machine.model_dump(), "abilities": [ability._asdict() for ability in abilities]})
        return
    output.print(f"[bold]{machine.id}[/bold]: {_words(machine)}", highlight=False)
    table = Table("what", "here", "why")
    for ability in abilities:
        table.add_row(
            ability.what, "[green]yes[/green]" if ability.is_available else "[yellow]no[/yellow]", ability.why
        )
    output.print(table)


def _words(machine: Machine) -> str:
    accelerator = machine.accelerator or "no accelerator"
    memory = f"{machine.memory_bytes / GIB:.1f} GiB"
    return f"{machine.chip}, {machine.cores_count} cores, {memory}, {accelerator}, {machine.os}"


def _abilities() -> Iterator[Ability]:
    yield from _torch()
    yield _mlx()
    yield from _weights()
    machine = this_machine()
    for known in KNOWN_MACHINES:
        yield Ability(f"hardware claims ({known})", machine.id == known, f"this machine is {machine.id}")
    yield from _sizes(machine.memory_bytes)


def _torch() -> Iterator[Ability]:
    if find_spec("torch") is None:
        yield Ability("torch", False, 'not installed: pip install "gemma_bench[torch]"')
        return
    import torch

    from gemma_bench.models.torch_backend import DEVICES, available_devices

    available = available_devices()
    for device in DEVICES:
        why = f"torch {torch.__version__}" if device in available else f"torch {torch.__version__} sees no {device}"
        yield Ability(f"torch on {device}", device in available, why)
    yield from _kernels()


def _kernels() -> Iterator[Ability]:
    from gemma_bench.methods import few_rows
    from gemma_bench.models import product
    from gemma_bench.training.stack import kernels

    for module, what in ((product, "quantised products"), (few_rows, "few rows"), (kernels, "tiny models")):
        try:
            module.KERNELS.required()
        except UnavailableError as error:
            yield Ability(f"{what} in C", False, f"{error}; torch computes instead, slower")
        else:
            yield Ability(f"{what} in C", True, "built by this machine's compiler")


def _mlx() -> Ability:
    if find_spec("mlx_lm") is None:
        return Ability("MLX", False, 'not installed: pip install "gemma_bench[mlx]"')
    from gemma_bench.models.backend_mlx import library_version

    return Ability("MLX", True, library_version())


def _weights() -> Iterator[Ability]:
    from gemma_bench.models.catalog import SIZES
    from gemma_bench.models.weights import locate

    for name in SIZES:
        try:
            folder = locate(name)
        except (UnavailableError, DamagedFileError) as error:
            yield Ability(f"weights of {name}", False, str(error))
        else:
            yield Ability(f"weights of {name}", True, folder.origin)


def _sizes(memory_bytes: int) -> Iterator[Ability]:
    from gemma_bench.models.catalog import SIZES

    for name, size in SIZES.items():
        for label, needed in (("bf16", size.weight_bytes(16)), ("4-bit", size.weight_bytes(4, 64))):
            fits = needed < _USABLE * memory_bytes
            yield Ability(f"{name} in {label} fits in memory", fits, f"weights take {gigabytes(needed)}")
