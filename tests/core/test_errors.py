"""Errors cross from one process to another as they are."""

import pickle

import pytest

from gemma_bench.core.errors import BadInputError, InvalidRunError, UnavailableError


@pytest.mark.parametrize(
    "error",
    [BadInputError("a rank"), UnavailableError("memory", "2 fit"), InvalidRunError("diverged", "rose")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_the_way_from_a_worker(error):
    came = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(came), str(came), vars(came)) == (type(error), str(error), vars(error))
