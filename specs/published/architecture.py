"""Published figures of chapter 1."""

from published import table

TEXT_PARAMETERS = {
    "270m": 268_098_176,
    "1b": 999_885_952,
    "4b": 3_880_099_328,
    "12b": 11_765_788_416,
    "27b": 27_009_002_240,
}
STUDY_SIZES = ("2b", "7b", "12b", "27b")
STUDY_CACHE_12B_GB = (25.8, 12.9, 2.5)
"""At 32k tokens in bf16: every head its own keys, grouped queries, grouped queries and local windows."""


def report_cache_gb() -> dict[str, float]:
    """Return the KV cache that the report's Table 3 implies: weights and cache minus weights."""
    return {
        row["model"]: float(row["bf16_weights_and_cache_gb"]) - float(row["bf16_weights_gb"])
        for row in table("gemma3_report_table3")
    }


def release_month(citation: str) -> int:
    """Return the month of 2025 in an arXiv id, 13 for the next January: `arXiv:2503.19786v1` is of month 3."""
    year, month = (int(citation.partition("arXiv:")[2][at : at + 2]) for at in (0, 2))
    return 12 * (year - 25) + month
