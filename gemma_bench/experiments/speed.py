"""The question: how fast does a model run here, how much of the bandwidth is that, and are its tokens right."""

import time
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import median_interval
from gemma_bench.core.records import Record
from gemma_bench.measure.bandwidth import read_bandwidth_bytes_per_s
from gemma_bench.measure.cost import bandwidth_share_percent
from gemma_bench.measure.throughput import Trial, Workload, trials
from gemma_bench.measure.validity import broken_rules, read_state
from gemma_bench.models.backend import Backend, subject

VERSION = 1


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


class SpeedRecord(Record):
    """Rates of one model on one machine; `samples` are the decode rates of the repetitions."""

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
    first_token_s: float
    token_times_s: tuple[tuple[float, ...], ...]
    weights_bytes: int
    peak_memory_bytes: int | None
    bandwidth_bytes_per_s: float
    bandwidth_share_percent: float
    output_is_correct: bool | None
    broken_rules: tuple[str, ...]
    is_complete: bool


def run(
    backend: Backend,
    config: Config,
    *,
    scale: str = "fixture",
    is_correct: Callable[[Trial], bool] | None = None,
    progress: Progress = silent,
) -> SpeedRecord:
    """Measure; Ctrl-C after at least one repetition gives an incomplete record of those that ended.

    `is_correct` judges a repetition's tokens against a reference; without one the record says that nobody looked.
    """
    backend.reset_peak_memory()
    before, start = read_state(), time.monotonic()
    done, is_complete = _repeat(backend, config, progress)
    duration_s, after = time.monotonic() - start, read_state()
    peak = backend.peak_memory_bytes()
    rates = [trial.decode_tokens_per_s for trial in done]
    decode = median_interval(rates)
    bandwidth = read_bandwidth_bytes_per_s(backend.device if backend.name == "torch" else "cpu")
    return SpeedRecord.measured(
        subject(backend, config.seed),
        experiment="speed",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=tuple(rates),
        backend=backend.name,
        device=backend.device,
        batch_size_count=config.batch_size,
        prompt_count_tokens=config.prompt_tokens,
        new_count_tokens=config.new_tokens,
        depth_count_tokens=config.depth_tokens,
        decode_tokens_per_s=decode.value,
        decode_low_tokens_per_s=decode.low,
        decode_high_tokens_per_s=decode.high,
        mlx_lm_decode_tokens_per_s=median_interval([trial.mlx_lm_tokens_per_s for trial in done]).value,
        prefill_tokens_per_s=median_interval([trial.prefill_tokens_per_s for trial in done]).value,
        first_token_s=median_interval([trial.first_token_s for trial in done]).value,
        token_times_s=tuple(trial.token_s for trial in done),
        weights_bytes=backend.weight_bytes(),
        peak_memory_bytes=peak,
        bandwidth_bytes_per_s=bandwidth,
        bandwidth_share_percent=bandwidth_share_percent(
            backend.weight_bytes(), decode.value / config.batch_size, bandwidth
        ),
        output_is_correct=None if is_correct is None else all(map(is_correct, done)),
        broken_rules=tuple(broken_rules(before, after, duration_s, rates)),
        is_complete=is_complete,
    )


def _repeat(backend: Backend, config: Config, progress: Progress) -> tuple[list[Trial], bool]:
    done: list[Trial] = []
    try:
        for trial in trials(backend, config.workload, config.trials):
            done.append(trial)
            progress("measuring", len(done), config.trials)
            time.sleep(config.delay_s)
    except KeyboardInterrupt:
        if not done:
            raise
        return done, False
    return done, True
