import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def gemma_bench(monkeypatch, capsys):
    """Run the command line in this process and return what it said."""
    from gemma_bench.cli.app import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["gemma-bench", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return SimpleNamespace(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def models_home(tmp_path, monkeypatch):
    """Keep models in an empty place of this test's own."""
    monkeypatch.setenv("GEMMA_BENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"
