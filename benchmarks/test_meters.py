"""Our decode rate beside mlx_lm's own, in turn: a minute on the 270m, for MLX's CPU build writes 2 or 3 tok/s.

On the tiny model mlx_lm takes as long to make text of a token as for the token, so its loop is compared without text.
"""

import sys
import time

import mlx.core as mx
from mlx_lm.generate import generate_step

from gemma_bench.measure.comparison import compare
from gemma_bench.measure.throughput import Workload, run_trial
from gemma_bench.measure.throughput_mlx import mlx_lm_tokens_per_s
from gemma_bench.models.loading import load


def mlx_lm_loop_tokens_per_s(backend, workload):
    prompt = mx.array(workload.tokens(backend.size, workload.prompt_tokens)[0])
    stamps = [time.perf_counter() for _ in generate_step(prompt, backend.model, max_tokens=workload.new_tokens)]
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])


def assert_one_rate(model, workload, theirs, rounds, capsys):
    backend = load(model, "mlx", "cpu")
    found = compare(lambda: run_trial(backend, workload).decode_tokens_per_s, lambda: theirs(backend, workload), rounds)
    with capsys.disabled():
        told = "ours over mlx_lm's {:.4f} [{:.4f}, {:.4f}]".format(*found.ratio)
        sys.stdout.write(f"{model}: {told}, smallest effect {found.smallest_effect_percent:.1f} %\n")
    assert found.ratio.low < 1.01
    assert found.ratio.high > 0.99


def test_both_meters_read_one_rate(capsys):
    """Once the token that mlx_lm does not count is taken out of its rate, both are one within the interval or 1 %."""
    assert_one_rate("270m", Workload(prompt_tokens=16, new_tokens=8), mlx_lm_tokens_per_s, 5, capsys)


def test_both_meters_read_one_rate_of_the_tiny_model(capsys):
    assert_one_rate("tiny", Workload(prompt_tokens=16, new_tokens=256), mlx_lm_loop_tokens_per_s, 10, capsys)
