"""The vocabulary of claims: what a spec imports, and nothing heavier."""

from gemma_bench.claims.claim import Claim, claim
from gemma_bench.claims.verdict import Allowed, Measured, Verdict, at_least, at_most, between, exactly, within_percent
from gemma_bench.core.errors import InvalidRunError, UnavailableError

__all__ = [
    "Allowed",
    "Claim",
    "InvalidRunError",
    "Measured",
    "UnavailableError",
    "Verdict",
    "at_least",
    "at_most",
    "between",
    "claim",
    "exactly",
    "within_percent",
]
