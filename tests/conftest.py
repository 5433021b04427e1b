"""Models for the tests: a tiny one made once, the real 270M where its packages are installed."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    from gemma_bench.models.tiny import random_folder

    return random_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def tiny_copy(tiny, tmp_path):
    """A copy of the tiny folder that a test may damage."""
    return Path(shutil.copytree(tiny.path, tmp_path / "copy"))


@pytest.fixture(scope="session", params=["torch", "mlx"])
def backend(request, tiny):
    from gemma_bench.models.loading import load

    return load(tiny, request.param, device="cpu")


@pytest.fixture(scope="session")
def gemma_270m():
    """The real model, built once per machine; only absent packages excuse its tests."""
    from gemma_bench.core.errors import UnavailableError
    from gemma_bench.models.weights import download

    try:
        return download("270m")
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home for models."""
    monkeypatch.setenv("GEMMA_BENCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def started():
    """Start a process that Ctrl-C reaches, even where this test itself was started in the background, deaf to it."""
    running = []

    def start(command, **options):
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        running.append(subprocess.Popen(command, preexec_fn=listen, **options))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
