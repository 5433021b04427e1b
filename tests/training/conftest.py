import pytest


@pytest.fixture
def micro():
    """A fresh random Gemma 3 of 165 thousand parameters, both kinds of layers."""
    from gemma_bench.training.micro import micro_model

    return micro_model(seed=0)
