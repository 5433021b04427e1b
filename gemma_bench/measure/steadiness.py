"""Does a token take longer the more were written before it, beyond what the growing cache explains."""

import time
from collections.abc import Sequence

import numpy as np
from scipy.stats import theilslopes

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import Interval, median_interval
from gemma_bench.measure.comparison import Comparison, compare
from gemma_bench.measure.throughput import Trial, Workload, run_trial
from gemma_bench.models.backend import Backend
from gemma_bench.models.catalog import Size

_LEAST_TOKENS = 3


def compare_at_equal_depth(
    backend: Backend, short: int, long: int, rounds: int, prompt_tokens: int = 8, progress: Progress = silent
) -> Comparison:
    """Compare the last tokens of a long generation with those of a short one whose cache holds just as much.

    What the long one wrote before them the short one reads as its prompt, so the cache's growth is the same for both
    and nothing needs to be known of it. Each figure is the median processor time of `short` − 1 tokens, all threads
    together: it does not count the turns that other processes take.
    """
    workloads = Workload(prompt_tokens, long), Workload(prompt_tokens + long - short, short)

    def figure(workload: Workload) -> float:
        return float(np.median(run_trial(backend, workload, time.process_time_ns).token_s[1 - short :]))

    return compare(lambda: figure(workloads[0]), lambda: figure(workloads[1]), rounds, progress)


def growth_percent(trials: Sequence[Trial], size: Size, value_bytes: int, bandwidth_bytes_per_s: float) -> Interval:
    """Return how much longer the last token takes than the first, in percent of the median token, with its interval.

    Each trial gives one slope (Theil–Sen, which outliers do not move) of token time over position, less the time in
    which memory at `bandwidth_bytes_per_s` brings the keys and values that a token adds.
    """
    excess = []
    for trial in trials:
        times = np.asarray(trial.token_s)
        slope = slope_s_per_token(times) - cache_slope_s_per_token(trial, size, value_bytes, bandwidth_bytes_per_s)
        excess.append(100 * slope * (len(times) - 1) / float(np.median(times)))
    return median_interval(excess)


def slope_s_per_token(token_s: Sequence[float] | np.ndarray) -> float:
    """Return the growth of token time per token written."""
    if len(token_s) < _LEAST_TOKENS:
        raise BadInputError(f"a slope needs at least {_LEAST_TOKENS} token times, got {len(token_s)}")
    return float(theilslopes(np.asarray(token_s)).slope)


def cache_slope_s_per_token(trial: Trial, size: Size, value_bytes: int, bandwidth_bytes_per_s: float) -> float:
    """Return the least time that a token adds to every later one: its keys and values must be read again."""
    start = trial.workload.depth_tokens + trial.workload.prompt_tokens
    tokens = (start, start + len(trial.token_s))
    first, last = (size.kv_cache_bytes(count, value_bytes, batch_size=trial.workload.batch_size) for count in tokens)
    return (last - first) / bandwidth_bytes_per_s / len(trial.token_s)
