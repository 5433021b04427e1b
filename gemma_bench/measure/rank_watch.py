"""The rank of a run's change, read while it trains: an instrument that is given to the run as a callback.

Where adapters and the merges that were kept hold the whole change, it is read from their factors; elsewhere from the
weights, less those of the model's own files, which are opened one matrix at a time: no second copy is ever in memory.
Every reading is a file of the run's folder, so that a resumed run shows the whole way.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import write_bytes
from gemma_bench.measure.rank_evolution import (
    Change,
    Directions,
    Matrix,
    RankReadings,
    effective_weight,
    projections,
    read_change,
)
from gemma_bench.measure.spectrum import Factors, Spectrum, in_float64
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.headers import read_headers
from gemma_bench.models.llama import LlamaSize
from gemma_bench.training.change import CumulativeChange
from gemma_bench.training.method import Prepared
from gemma_bench.training.plan import Plan
from gemma_bench.training.watching import Tell, Watcher

FOLDER = "rank"
_FEW_LAYERS = 8
_LEAST_INTERVAL = 25
"""A reading of 270m's weights takes half as long as its step on 256 tokens, one of factors a hundredth."""

_READINGS = 20
_KINDS = ("rank", "effective_rank", "stable_rank")

Found = dict[str, tuple[Spectrum, Directions]]
Changes = Callable[[nn.Module], Iterator[tuple[str, Change]]]


class RankOptions(BaseModel):
    """How often the rank of the change is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank_every: int | None = Field(
        None,
        ge=0,
        description="Steps between readings of the rank of the change; 0 is none. Default: 20 readings in a run of "
        "adapters, from the end of a warm start on, none without adapters.",
    )

    def interval(self, iters: int, *, has_adapters: bool) -> int:
        """Return the steps between two readings of a run, 0 for none."""
        if self.rank_every is not None:
            return self.rank_every
        return max(_LEAST_INTERVAL, iters // _READINGS) if has_adapters else 0


class RankWatch(Watcher):
    """Reads numeric, effective and stable rank of every projection's change since the start of the run.

    In models of more than 8 layers it reads those of the first, the middle and the last one. Where adapters hold the
    change they do so after a warm start: nothing is read before its end, and the change is that since `since_step`.
    """

    def __init__(self, folder: Path, interval: int) -> None:
        """Take the run's folder and the steps between two readings; the last step is read in any case."""
        super().__init__(interval, self._look, looks_at_the_end=True)
        self.folder, self.readings, self.since_step = folder / FOLDER, RankReadings(()), 0

    def begin(self, prepared: Prepared, source: ModelFolder, tell: Tell) -> "RankWatch":
        """Find out what is to be read and from where."""
        read_layers = _read_layers(source.size.num_hidden_layers)
        names = [name for name, _ in projections(prepared.model) if any(layer in name for layer in read_layers)]
        self.readings, self._tell = RankReadings(names), tell
        self._changes = _from_factors(prepared.change, names) if prepared.change else _from_files(source, names)
        if prepared.change:
            prepared.change.keep_only(names)
            self.since_step = prepared.change.since_step
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take up the readings up to the step that the run stands at; it will make the later ones again."""
        super().on_train_begin(args, state, control, **more)
        for path in sorted(self.folder.glob("*.safetensors")):
            if int(path.stem) <= state.global_step:
                self.readings.add(int(path.stem), _read(path))
            else:
                path.unlink()

    def _look(self, step: int, model: nn.Module) -> None:
        if step <= self.since_step:
            return
        found = {name: read_change(change) for name, change in self._changes(model)}
        content = _packed(found)
        write_bytes(self.folder / f"{step:06}.safetensors", content)
        self.readings.add(step, _unpacked(load(content)))
        self._tell(step, dict(self._scalars()))

    def _scalars(self) -> Iterator[tuple[str, float]]:
        """Yield the means of the last reading, over all matrices and over those of each type."""
        for kind in _KINDS:
            yield kind, self.readings.means(kind)[-1]
            by_type: dict[str, list[float]] = {}
            for name, values in self.readings.of_matrices(kind).items():
                by_type.setdefault(name.rpartition(".")[2], []).append(values[-1])
            yield from ((f"{kind}/{name}", sum(values) / len(values)) for name, values in by_type.items())

    def figures(self) -> dict[str, Any]:
        """Return the means by reading for the run's record, and the share of its time that reading took."""
        means = {kind: self.readings.means(kind) for kind in _KINDS}
        counts = {"ranked_matrices_count": len(self.readings.readings), "rank_steps": tuple(self.readings.steps)}
        return {**means, **counts, "rank_since_step": self.since_step, "ranking_ratio": self.share}


def kept_bytes(plan: Plan) -> int:
    """Return what the merges of the matrices that are read take: factors in float32, or float64 matrices."""
    rank = plan.method.kept_rank(plan.read_steps)
    if not rank or isinstance(plan.size, LlamaSize):
        return 0
    targets = getattr(plan.method, "targets", ())
    layers = _read_layers(plan.size.num_hidden_layers)
    shapes = (
        shape
        for name, shape in plan.size.matrix_shapes().items()
        if any(layer in name for layer in layers) and name.split(".")[-2] in targets
    )
    return sum(min(4 * rank * (rows + columns), 8 * rows * columns) for rows, columns in shapes)


def _read_layers(count: int) -> tuple[str, ...]:
    chosen = range(count) if count <= _FEW_LAYERS else (0, count // 2, count - 1)
    return tuple(f".{layer}." for layer in chosen)


def _from_factors(kept: CumulativeChange, names: list[str]) -> Changes:
    def changes(model: nn.Module) -> Iterator[tuple[str, Change]]:
        found: Any = dict(projections(model))
        for name in names:
            change = kept.with_adapters({name: found[name]})[name]
            together = change.factors()
            yield name, Factors(*together) if together else (change.matrix(), None)

    return changes


def _from_files(source: ModelFolder, names: list[str]) -> Changes:
    headers = read_headers(source.path)

    def changes(model: nn.Module) -> Iterator[tuple[str, Change]]:
        found = dict(projections(model))
        for name in names:
            weight = _plain(found[name])
            with safe_open(headers[f"{name}.weight"].file, framework="pt") as file:
                start = in_float64(file.get_tensor(f"{name}.weight").to(weight.device, weight.dtype))
            yield name, (effective_weight(found[name]) - start, start.float())

    return changes


def _plain(part: Matrix) -> Tensor:
    linear: Any = part if isinstance(part, nn.Linear) else part.get_base_layer()
    weight: Tensor = linear.weight
    return weight


def _packed(found: Found) -> bytes:
    """Return a reading as the content of a file; directions, whose overlaps are drawn, in float32."""
    tensors = {}
    for name, (spectrum, leading) in found.items():
        tensors[f"{name}/values"] = spectrum.values.cpu()
        tensors[f"{name}/noise"] = torch.tensor(spectrum.noise, dtype=torch.float64)
        tensors[f"{name}/directions"] = leading.cpu().float().contiguous()
    return save(tensors)


def _unpacked(tensors: Mapping[str, Tensor]) -> Found:
    names = dict.fromkeys(name.rpartition("/")[0] for name in tensors)
    return {
        name: (Spectrum(tensors[f"{name}/values"], float(tensors[f"{name}/noise"])), tensors[f"{name}/directions"])
        for name in names
    }


def _read(path: Path) -> Found:
    try:
        return _unpacked(load(path.read_bytes()))
    except (OSError, SafetensorError) as error:
        raise DamagedFileError(f"reading {path} cannot be read, remove its folder: {error}") from error
