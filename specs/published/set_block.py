"""Published figures of chapter 6: the main table of Set Block Decoding and its roofline."""

import numpy as np

from published import table

TASKS = ("MATH500", "AIME25", "LiveCodeBench v6", "GSM8K", "HumanEval+", "MBPP")
REASONING = frozenset(TASKS[:3])

FEWER_PASSES = {
    "Llama, low γ": (3.55, 3.35, 3.72, 2.20, 2.61, 2.49),
    "Qwen, low γ": (3.41, 3.85, 3.92, 2.77, 2.51, 2.61),
    "Llama, high γ": (3.23, 4.50, 4.59, 2.34, 2.95, 2.66),
    "Qwen, high γ": (3.54, 5.06, 5.36, 2.86, 2.72, 3.03),
}
"""How many times fewer passes than tokens, by task; the low γ is the one that the paper finds to keep accuracy."""

ACCURACY = {
    "Llama, autoregressive": (80.2, 33.3, 31.5, 85.3, 56.7, 70.4),
    "Llama, low γ": (81.0, 30.0, 31.7, 84.2, 57.9, 69.5),
    "Llama, high γ": (80.4, 23.3, 29.9, 84.0, 54.9, 67.2),
    "Qwen, autoregressive": (86.6, 33.3, 36.6, 90.1, 69.5, 78.0),
    "Qwen, low γ": (85.0, 33.3, 37.2, 90.1, 66.5, 77.5),
    "Qwen, high γ": (85.4, 26.6, 33.3, 88.7, 65.2, 74.6),
}
"""Percent right, in the order of the tasks; the autoregressive rows are fine-tuned on the same data."""

ROOFLINE_BATCHES, ROOFLINE_BLOCK = (1, 4, 8, 16), 16


def savings_without_loss() -> dict[str, float]:
    """Return how many times fewer passes each task took at the γ that keeps accuracy."""
    return {
        f"{name.partition(',')[0]} on {task}": saving
        for name, savings in FEWER_PASSES.items()
        if name.endswith("low γ")
        for task, saving in zip(TASKS, savings, strict=True)
    }


def largest_loss_points(gamma: str) -> float:
    """Return the most points that a task lost against autoregressive decoding at the `low` or the `high` γ."""
    return max(
        before - after
        for model in ("Llama", "Qwen")
        for before, after in zip(ACCURACY[f"{model}, autoregressive"], ACCURACY[f"{model}, {gamma} γ"], strict=True)
    )


def roofline_cells() -> dict[tuple[int, int, int], float]:
    """Return Table 3: what a pass costs, by batch size, block size and tokens in the cache."""
    names = ("batch_size", "block_size", "kv_length_tokens")
    return {
        (int(row[names[0]]), int(row[names[1]]), int(row[names[2]])): float(row["slowdown_ratio"])
        for row in table("set_block_table3")
    }


def printed_factor_cost(sorted_confidences: np.ndarray) -> np.ndarray:
    """Return what appendix B.1 holds against the factor, (n + 1)·c_n for n = 1, 2, …, the surest token first."""
    return (np.arange(len(sorted_confidences)) + 2) * sorted_confidences


def saved_percent(tokens_per_pass: float) -> float:
    """Return the share of passes that blocks save: 3 tokens per pass save two thirds."""
    return 100 * (1 - 1 / tokens_per_pass)
