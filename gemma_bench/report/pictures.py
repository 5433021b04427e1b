"""Every picture of an experiment's newest clean record, written beside the records."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_bench.core.records import Record, newest_record
from gemma_bench.experiments.arms_record import ArmsRecord
from gemma_bench.experiments.fine_tune_memorization import FineTuneRecord
from gemma_bench.experiments.layer_capacity import LayerRecord
from gemma_bench.experiments.quantized_memory import QuantizedRecord
from gemma_bench.report.capacity_pictures import fine_tune_picture, layer_picture, quantized_picture
from gemma_bench.report.figures import save
from gemma_bench.report.rank_pictures import arms_picture, directions_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Any], "Figure"]

_ARMS: tuple[Draw, ...] = (arms_picture, directions_picture)
PICTURES: dict[str, tuple[type[Record], tuple[Draw, ...]]] = {
    "quantized_memory": (QuantizedRecord, (quantized_picture,)),
    "layer_capacity": (LayerRecord, (layer_picture,)),
    "fine_tune_memorization": (FineTuneRecord, (fine_tune_picture,)),
    "low_rank_training": (ArmsRecord, _ARMS),
    "rank_one_rules": (ArmsRecord, _ARMS),
    "merge_frequency": (ArmsRecord, _ARMS),
    "relora_ablation": (ArmsRecord, _ARMS),
}
"""The pictures of an experiment and the record that they are drawn from."""


def drawn(results: Path) -> Iterator[tuple[str, "Figure"]]:
    """Yield a name and a figure for each picture of every experiment that has a clean record."""
    for experiment, (kind, draws) in PICTURES.items():
        found = newest_record(results, experiment, kind)
        if found is None:
            continue
        for number, draw in enumerate(draws, start=1):
            yield experiment if number == 1 else f"{experiment}_{number}", draw(found[1])


def write_pictures(results: Path) -> Iterator[Path]:
    """Write `pictures/<experiment>.png` beside the records, a second one as `<experiment>_2.png`."""
    for name, figure in drawn(results):
        path = results / "pictures" / f"{name}.png"
        save(figure, path)
        yield path
