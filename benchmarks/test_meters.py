"""Our decode rate beside mlx_lm's own, in turn on the 270m: a minute, for MLX's CPU build writes 2 or 3 tok/s.

On the tiny model, whose token takes as long as mlx_lm needs to make text of it, SPEED-9 compares the meters.
"""

import sys

from gemma_bench.measure.comparison import compare
from gemma_bench.measure.throughput import Workload, run_trial
from gemma_bench.measure.throughput_mlx import mlx_lm_tokens_per_s
from gemma_bench.models.loading import load


def test_both_meters_read_one_rate(capsys):
    """Once the token that mlx_lm does not count is taken out of its rate, both are one within the interval or 1 %."""
    backend, workload = load("270m", "mlx", "cpu"), Workload(prompt_tokens=16, new_tokens=8)
    found = compare(
        lambda: run_trial(backend, workload).decode_tokens_per_s, lambda: mlx_lm_tokens_per_s(backend, workload), 5
    )
    with capsys.disabled():
        told = "ours over mlx_lm's {:.4f} [{:.4f}, {:.4f}]".format(*found.ratio)
        sys.stdout.write(f"{told}, smallest effect {found.smallest_effect_percent:.1f} %\n")
    assert found.ratio.low < 1.01
    assert found.ratio.high > 0.99
