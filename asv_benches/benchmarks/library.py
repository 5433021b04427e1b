"""What a user waits for before anything runs: imports, the command line, the table of contents."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def _run(*arguments):
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def _specs():
    """Return the specs of the commit that is measured: they lie beside its package."""
    return Path(find_spec("gemma_bench").origin).parents[1] / "specs"


class Startup:
    """Fresh processes, so that nothing is imported yet."""

    version = "1"

    def time_import_claims(self):
        _run("-c", "import gemma_bench.claims")

    def time_help(self):
        _run("-m", "gemma_bench", "--help")

    def time_contents(self):
        read = "from pathlib import Path; from gemma_bench.claims.contents import read_specs"
        _run("-c", f"{read}; read_specs([Path({str(_specs())!r})])")


class Collection:
    """Every claim collected by pytest, and the table of contents, which imports no spec."""

    version = "1"

    def time_pytest_contents(self):
        _run("-m", "pytest", str(_specs()), "--contents")

    def time_pytest_collect(self):
        _run("-m", "pytest", str(_specs()), "--collect-only", "-q")


def track_modules_of_import_claims():
    """Count the modules that `import gemma_bench.claims` loads: exact on any machine."""
    code = "import sys, gemma_bench.claims; print(len(sys.modules))"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


track_modules_of_import_claims.unit = "modules"
track_modules_of_import_claims.version = "1"
