import os
import subprocess
import sys
from pathlib import Path

import pytest


class Project:
    """A project of somebody else's that uses the plugin."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pytest.ini").write_text("[pytest]\n")
        self.write("faults", "")

    def write(self, name: str, text: str) -> Path:
        path = self.root / "specs" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "160", "PYTEST_ADDOPTS": "-p no:cacheprovider"}
        command = [sys.executable, "-m", "pytest", *(arguments or ("specs",))]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)
