"""Does a token take longer the more were written before it, beyond what the growing cache explains."""

import time

import numpy as np

from gemma_bench.core.files import Progress, silent
from gemma_bench.measure.comparison import Comparison, compare
from gemma_bench.measure.throughput import Workload, run_trial
from gemma_bench.models.backend import Backend


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
