"""Flat figures from what instruments read, named as records name them: the unit is the last word."""

from collections.abc import Sequence
from dataclasses import asdict
from math import inf
from typing import Any

from gemma_bench.core.intervals import median_interval
from gemma_bench.measure.correctness import check_output
from gemma_bench.measure.cost import bandwidth_share_percent, step_bytes
from gemma_bench.measure.memory import MemoryMeter
from gemma_bench.measure.peak import Load, Peak, predicted_peak
from gemma_bench.measure.throughput import Trial, Workload, percentile
from gemma_bench.models.backend import Backend, value_bytes
from gemma_bench.models.loading import is_installed, load

PHASES = ("load", "prefill", "decode")


def rates(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return rates with their intervals, the time to the first token, and every token's time."""
    figures: dict[str, Any] = {}
    for name in ("decode", "prefill"):
        found = median_interval([getattr(trial, f"{name}_tokens_per_s") for trial in trials])
        figures |= found.named(name, "tokens_per_s")
    times = [second for trial in trials for second in trial.token_s]
    return figures | {
        "mlx_lm_decode_tokens_per_s": median_interval([trial.mlx_lm_tokens_per_s for trial in trials]).value,
        "first_token_s": median_interval([trial.first_token_s for trial in trials]).value,
        "token_median_s": median_interval(times).value,
        **{f"token_p{percent}_s": percentile(times, percent) for percent in (90, 95, 99)},
        "token_times_s": tuple(trial.token_s for trial in trials),
    }


def ceiling(
    backend: Backend, workload: Workload, decode_tokens_per_s: float, bandwidth_bytes_per_s: float
) -> dict[str, Any]:
    """Return what a step must read, and the rate's share of what the bandwidth allows."""
    context = workload.depth_tokens + workload.prompt_tokens
    moved = step_bytes(backend.size, backend.weight_bytes(), context, workload.batch_size, value_bytes(backend))
    steps_per_s = decode_tokens_per_s / workload.batch_size
    return {
        "weights_bytes": backend.weight_bytes(),
        "step_bytes": moved,
        "bandwidth_bytes_per_s": bandwidth_bytes_per_s,
        "bandwidth_share_percent": bandwidth_share_percent(moved, steps_per_s, bandwidth_bytes_per_s),
    }


def memory(backend: Backend, workload: Workload, meter: MemoryMeter) -> dict[str, Any]:
    """Return memory by phase; the peak of live tensors while reading and writing, and its prediction."""
    figures: dict[str, Any] = {"memory_limit_bytes": meter.allocator.limit_bytes()}
    for phase in PHASES:
        if phase in meter.phases:
            figures |= {f"{phase}_{name}": figure for name, figure in asdict(meter.phases[phase]).items()}
            figures.pop(f"{phase}_limit_bytes")
    peaks = [meter.phases[phase].live_bytes for phase in PHASES[1:]]
    known = [peak for peak in peaks if peak is not None]
    return figures | {
        "peak_memory_bytes": max(known) if known else None,
        "predicted_peak_bytes": prediction(backend, workload).bytes,
    }


def prediction(backend: Backend, workload: Workload) -> Peak:
    """Predict the peaks of a loaded model on a workload."""
    load = Load(
        size=backend.size,
        weights_bytes=backend.weight_bytes(),
        value_bytes=value_bytes(backend),
        prompt_tokens=workload.depth_tokens + workload.prompt_tokens,
        new_tokens=workload.new_tokens,
        batch_size=workload.batch_size,
    )
    if backend.name == "torch" and backend.folder.bits is not None:
        from gemma_bench.measure.peak_quantised import quantised_peak

        return quantised_peak(load)
    return predicted_peak(backend.name, load, scores_are_kept=(backend.name, backend.device) == ("mlx", "cpu"))


def output(backend: Backend, workload: Workload, trials: Sequence[Trial], reference: Backend | None) -> dict[str, Any]:
    """Return how far the repetitions' tokens are from the reference's choices: of outputs that differ, the worst."""
    reference = reference or _judge(backend)
    different = dict.fromkeys(trial.rows for trial in trials)
    checks = [check_output(backend, workload, rows, reference) for rows in different]
    found = max(checks, key=lambda check: inf if check.largest_gap_nats is None else check.largest_gap_nats)
    judge = "itself, many tokens at once"
    if reference is not None:
        judge = f"{reference.folder.model_id} in {reference.name} on {reference.device} in {reference.precision}"
    return {"reference": judge, **asdict(found), "output_is_correct": all(check.is_correct for check in checks)}


def _judge(backend: Backend) -> Backend | None:
    """Return torch for a quantised model on MLX's CPU, which adds in bfloat16 in single steps and in one pass alike.

    On the 270m in 4 bits that moves the choices by a median KL of 0.3 nats. `None`: the model judges itself.
    """
    if (backend.name, backend.device) != ("mlx", "cpu") or backend.folder.bits is None or not is_installed("torch"):
        return None
    from gemma_bench.models.packed import SERVED_BITS

    return load(backend.folder, "torch", "cpu") if backend.folder.bits in SERVED_BITS else None
