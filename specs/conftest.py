"""What every chapter's evidence starts from. In a fault run the tiny model stands for the real one."""

from pathlib import Path

import pytest

pytest_plugins = [
    "evidence.architecture",
    "evidence.capacity",
    "evidence.capacity_limits",
    "evidence.capacity_scaling",
    "evidence.low_rank_records",
    "evidence.rank_evolution",
    "evidence.rank_one",
    "evidence.relora",
    "evidence.relora_cost",
    "evidence.set_block",
    "evidence.set_block_training",
    "evidence.speed",
]


def pytest_collection_modifyitems(items):
    """Mark the specs that need real weights, so that `-m "not weights"` leaves them out."""
    for item in items:
        if {"gemma", "real_gemma"} & set(item.fixturenames):
            item.add_marker("weights")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a folder with the tiny Gemma 3: seeded random weights, both kinds of layers, a window of 8 tokens."""
    from gemma_bench.models.catalog import TINY
    from gemma_bench.models.tiny import random_folder

    return random_folder(tmp_path_factory.mktemp("models") / "tiny", TINY)


@pytest.fixture(scope="session")
def real_gemma():
    """Return the folder of the real Gemma 3 270M."""
    from gemma_bench.models.weights import locate

    return locate("270m")


@pytest.fixture(scope="session")
def gemma(request):
    """Return the folder of the real Gemma 3 270M, or the tiny one's in a fault run."""
    return request.getfixturevalue("tiny" if request.config.option.faults else "real_gemma")


@pytest.fixture(scope="session")
def text():
    """Return a text that every machine has: the beginning of this project's own licence."""
    return (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8").strip()[:2000]
