"""The study's speed table, measured anew on the machine that it names; never run on one so far."""

from gemma_bench.core.errors import InvalidRunError, UnavailableError
from gemma_bench.core.known_machines import M3_ULTRA
from gemma_bench.core.machine import this_machine
from gemma_bench.experiments import speed
from gemma_bench.experiments.speed import Config, SpeedRecord
from gemma_bench.measure.validity import require_valid

ROWS = {
    "mlx 4-bit": Config(model="12b-it-4bit", backend="mlx"),
    "mlx 16-bit": Config(model="12b-it", backend="mlx", dtype="bfloat16"),
    "mps 16-bit": Config(model="12b-it", backend="torch", device="mps", dtype="float16"),
    "mlx 4-bit short": Config(model="12b-it-4bit", backend="mlx", new_tokens=18),
    "mlx 4-bit long": Config(model="12b-it-4bit", backend="mlx", new_tokens=512),
}


def measure() -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return decode rates and peaks of live memory by row.

    Raises `UnavailableError` on any other machine, and `InvalidRunError` for a run that broke a rule or wrote nonsense.
    """
    here = this_machine().id
    if here != M3_ULTRA.id:
        raise UnavailableError("metal", f"this claim is about {M3_ULTRA.id}, this machine is {here}")
    records = {row: _row(config) for row, config in ROWS.items()}
    rates = {row: list(record.samples) for row, record in records.items()}
    peaks = {row: float(record.peak_memory_bytes or 0) for row, record in records.items()}
    return rates, peaks


def _row(config: Config) -> SpeedRecord:
    record = speed.measure(config, scale="full")
    require_valid(record.broken_rules)
    if not record.has_finite_logits:
        raise InvalidRunError("wrong output", f"{config.model} in {record.dtype} gives no finite logits")
    if not record.output_is_correct:
        raise InvalidRunError("wrong output", f"{config.model} is {record.largest_gap_nats} nats off its best tokens")
    return record
