"""What a user waits for when nothing heavy is needed."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "mlx", "transformers", "peft", "scipy", "matplotlib")


@pytest.mark.parametrize("module", ["gemma_bench.claims", "gemma_bench.claims.plugin", "gemma_bench.cli.app"])
def test_importing_it_leaves_the_heavy_libraries_out(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
