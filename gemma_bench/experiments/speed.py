"""The question: how fast does a model run here, how much of the bandwidth is that, and are its tokens right."""

import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, unknown
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record
from gemma_bench.measure import summary
from gemma_bench.measure.bandwidth import bandwidth_under
from gemma_bench.measure.energy import energy_window
from gemma_bench.measure.memory import MemoryMeter, allocator_of, watched, weigh
from gemma_bench.measure.throughput import Trial, Workload, run_trial
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import broken_rules, read_state
from gemma_bench.models.backend import Backend, subject
from gemma_bench.models.loading import BACKENDS, is_installed, load

VERSION = 2


class Config(BaseModel):
    """What is run: a model in one library and precision, and how often."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    backend: str = "torch"
    device: str | None = None
    dtype: str | None = None
    prompt_tokens: int = 512
    new_tokens: int = 128
    batch_size: int = 1
    depth_tokens: int = 0
    trials: int = 5
    delay_s: float = 0.0
    seed: int = 0

    @property
    def workload(self) -> Workload:
        """What one repetition does."""
        return Workload(self.prompt_tokens, self.new_tokens, self.batch_size, self.depth_tokens, self.seed)

    def check(self) -> None:
        """Refuse counts that have no meaning, before anything is loaded."""
        if self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS)
        if self.trials < 1:
            raise BadInputError(f"trials must be at least 1, got {self.trials}")
        self.workload.check_counts()


class SpeedRecord(Record):
    """Rates of one model on one machine; `samples` are the decode rates of the repetitions.

    Memory is live tensors (peak), the allocator's cache (at the phase's end) and the footprint (peak), by phase, read
    in an untimed repetition; load figures are `None` where the model was there before. `same_tokens_ratio` and
    `largest_gap_nats` say how far the output is from the reference's greedy choices. Energy counts the prefill too.
    """

    backend: str
    device: str
    batch_size_count: int
    prompt_count_tokens: int
    new_count_tokens: int
    depth_count_tokens: int
    decode_tokens_per_s: float
    decode_low_tokens_per_s: float
    decode_high_tokens_per_s: float
    mlx_lm_decode_tokens_per_s: float
    prefill_tokens_per_s: float
    prefill_low_tokens_per_s: float
    prefill_high_tokens_per_s: float
    first_token_s: float
    token_median_s: float
    token_p90_s: float | None
    token_p95_s: float | None
    token_p99_s: float | None
    token_times_s: tuple[tuple[float, ...], ...]
    weights_bytes: int
    step_bytes: int
    bandwidth_bytes_per_s: float
    bandwidth_share_percent: float
    load_live_bytes: int | None = None
    load_allocator_cache_bytes: int | None = None
    load_footprint_bytes: int | None = None
    prefill_live_bytes: int | None
    prefill_allocator_cache_bytes: int | None
    prefill_footprint_bytes: int
    decode_live_bytes: int | None
    decode_allocator_cache_bytes: int | None
    decode_footprint_bytes: int
    memory_limit_bytes: int
    peak_memory_bytes: int | None
    predicted_peak_bytes: int
    energy_per_token_j: float | None
    reference: str
    has_finite_logits: bool
    same_tokens_ratio: float
    largest_gap_nats: float | None
    checked_count_tokens: int | None = None
    output_is_correct: bool
    broken_rules: tuple[str, ...]
    is_complete: bool


def measure(config: Config, *, scale: str = "fixture", progress: Progress = silent) -> SpeedRecord:
    """Load a model, its memory watched, and measure it; a second measurement on this machine is marked invalid."""
    config.check()
    with turn() as other_bench_pid:
        backend, meter = _load(config, progress)
        return run(backend, config, scale=scale, meter=meter, other_bench_pid=other_bench_pid, progress=progress)


def run(
    backend: Backend,
    config: Config,
    *,
    scale: str = "fixture",
    reference: Backend | None = None,
    meter: MemoryMeter | None = None,
    other_bench_pid: int | None = None,
    progress: Progress = silent,
) -> SpeedRecord:
    """Measure; Ctrl-C after at least one repetition gives an incomplete record of those that ended.

    Tokens are compared with the greedy choices of `reference`, or of the same model reading everything at once.
    """
    config.check()
    workload = config.workload
    workload.check(backend.size)
    meter = meter or watched(backend)
    weigh(backend, workload, meter)
    bandwidth = bandwidth_under(backend)
    before = read_state(other_bench_pid)
    repeated = _repeat(backend, config, progress)
    after = read_state()
    done, energy_j = repeated.trials, repeated.energy_j
    rates, samples = summary.rates(done), tuple(trial.decode_tokens_per_s for trial in done)
    written_count = len(done) * config.new_tokens * config.batch_size
    return SpeedRecord.measured(
        subject(backend, config.seed),
        experiment="speed",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=samples,
        **_request(backend, config),
        **rates,
        **summary.ceiling(backend, workload, rates["decode_tokens_per_s"], bandwidth),
        **summary.memory(backend, workload, meter),
        energy_per_token_j=None if energy_j is None else energy_j / written_count,
        **summary.output(backend, workload, done, reference),
        broken_rules=tuple(broken_rules(before, after, repeated.duration_s, samples)),
        is_complete=repeated.is_complete,
    )


def _request(backend: Backend, config: Config) -> dict[str, Any]:
    return {
        "backend": backend.name,
        "device": backend.device,
        "batch_size_count": config.batch_size,
        "prompt_count_tokens": config.prompt_tokens,
        "new_count_tokens": config.new_tokens,
        "depth_count_tokens": config.depth_tokens,
    }


@dataclass
class Repeated:
    """Repetitions that ended, the time from the first one's start to the last one's end, and the energy that they took.

    Pauses between them are in neither.
    """

    trials: list[Trial] = field(default_factory=list)
    duration_s: float = 0.0
    energy_j: float | None = 0.0
    is_complete: bool = False


def _repeat(backend: Backend, config: Config, progress: Progress) -> Repeated:
    found = Repeated()
    try:
        for index in range(config.trials):
            time.sleep(config.delay_s if index else 0)
            start, energy = time.monotonic(), energy_window(backend.device)
            trial, used_j = run_trial(backend, config.workload), energy()
            found.duration_s += time.monotonic() - start
            found.energy_j = None if used_j is None or found.energy_j is None else found.energy_j + used_j
            found.trials.append(trial)
            progress("measuring", index + 1, config.trials)
    except KeyboardInterrupt:
        if not found.trials:
            raise
        return found
    found.is_complete = True
    return found


def _load(config: Config, progress: Progress) -> tuple[Backend, MemoryMeter | None]:
    """Load a model, its memory watched; what cannot be loaded is left to `load` to explain."""
    if not is_installed(config.backend):
        return load(config.model, config.backend, config.device, config.dtype, progress), None
    meter = MemoryMeter(allocator_of(config.backend, _device(config)))
    with meter.phase("load"):
        backend = load(config.model, config.backend, config.device, config.dtype, progress)
    return backend, meter


def _device(config: Config) -> str:
    if config.backend == "mlx":
        from gemma_bench.models import backend_mlx

        return backend_mlx.checked_device(config.device or backend_mlx.available_devices()[-1])
    from gemma_bench.models import torch_backend

    return torch_backend.checked_device(config.device or torch_backend.best_device())
