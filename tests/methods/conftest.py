import pytest
import torch


@pytest.fixture
def micro():
    from gemma_bench.training.micro import micro_model

    return micro_model(seed=0)


@pytest.fixture(scope="session")
def rows():
    """A little of Python's own sources, byte by byte."""
    from gemma_bench.training.corpus import Windows, python_sources

    return Windows(python_sources().train[:20_000], 32)


@pytest.fixture
def moment():
    """What a method's callback is told of a run that stands at some step."""
    from gemma_bench.training.method import Moment

    def at(step, model, optimizer=None, steps=100):
        return Moment(step, steps, model, optimizer or torch.optim.SGD(model.parameters(), 0.1), clip_norm=0.0)

    return at
