"""Published figures of chapter 3, and the paper's formulas as printed."""

from dataclasses import dataclass
from math import exp, log2

from published import table

BITS_PER_PARAMETER = 3.6
PREDICTIONS_SLOPE = 3.642
"""What the paper says its predictions use."""

FITTED_SLOPE = 3.54
"""What they do use: found here, by what reproduces them."""

STATED_12B_GBIT = 43.2
"""3.6 × 12·10⁹."""

WORDS = 50_257
"""GPT-2's vocabulary, of which the membership data are made, in sequences of 64."""

SEQUENCE_TOKENS = 64


@dataclass(frozen=True)
class Sweep:
    """One cell of the sweeps over sequence length and vocabulary."""

    parameters: float
    data_bits: float
    expected_bits: float


@dataclass(frozen=True)
class MembershipRow:
    """One model and data set of the membership table; F1 as predicted, 0 … 1."""

    parameters: float
    sequences: float
    predicted_f1: float


SMALLEST_PARAMETERS = 80_352


def smallest_bits_per_parameter(precision: str) -> float:
    """Return the published capacity of the smallest model, 1 layer of width 32, over its parameters."""
    (row,) = (row for row in table("morris_capacity_partial") if int(row["parameters"]) == SMALLEST_PARAMETERS)
    return (
        float(row[{"float32": "capacity_fp32_bits", "bfloat16": "capacity_bf16_bits"}[precision]]) / SMALLEST_PARAMETERS
    )


def sweeps() -> list[Sweep]:
    """Return the sweeps' cells with their data's entropy, N·S·log2 V."""
    return [
        Sweep(float(row["parameters"]), _data_bits(row), float(row["expected_bits"])) for row in table("morris_sweeps")
    ]


def _data_bits(row: dict[str, str]) -> float:
    return int(row["sequences"]) * int(row["sequence_length_tokens"]) * log2(int(row["vocab_size"]))


def membership_rows() -> list[MembershipRow]:
    """Return the rows of the membership table."""
    rows = table("morris_membership")
    return [
        MembershipRow(float(row["parameters"]), float(row["dataset_sequences"]), float(row["predicted_f1"]))
        for row in rows
    ]


def farthest_percent(slope: float) -> float:
    """Return how far the prediction min(slope·P, data) is from an expected cell at worst, in percent."""
    return max(abs(100 * (min(slope * row.parameters, row.data_bits) / row.expected_bits - 1)) for row in sweeps())


def f1_law(x: float) -> float:
    """Return ½·(1 + c1·σ(c2·(x + c3))) with the constants as printed."""
    return 0.5 * (1 + 1.34 / (1 + exp(0.034 * (x - 33.14))))


def printed_arguments(row: MembershipRow) -> dict[str, float]:
    """Return the printed argument, capacity over |D|, with |D| counted in each way that the text allows."""
    capacity = BITS_PER_PARAMETER * row.parameters
    tokens = row.sequences * SEQUENCE_TOKENS
    return {
        "sequences": capacity / row.sequences,
        "tokens": capacity / tokens,
        "bits": capacity / (tokens * log2(WORDS)),
    }


def recovered_argument(row: MembershipRow) -> float:
    """Return the argument that the cells follow from, the other way up: 985 |D|/P, about data bits over parameters."""
    return 985 * row.sequences / row.parameters


def f1_points_off(row: MembershipRow, x: float) -> float:
    """Return how far the law is from a predicted cell, in points."""
    return abs(100 * (f1_law(x) - row.predicted_f1))
