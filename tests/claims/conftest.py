import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy  # noqa: F401  a process imports it once, and a run forgets what it was the first to import
import pytest
import rich.console  # noqa: F401


class Project:
    """A project of somebody else's that uses the plugin; its runs take place in this process, or in one of their own.

    Here they are many times quicker, and as far apart as pytester keeps them: modules, paths and output are their own.
    """

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._pytester, self._monkeypatch = pytester.path, pytester, monkeypatch
        (self.root / "pytest.ini").write_text("[pytest]\n")
        self.write("faults", "")

    def write(self, name: str, text: str) -> Path:
        path = self.root / "specs" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def pytest(self, *arguments: str) -> SimpleNamespace:
        for file in (self.root / "specs").glob("*.py"):  # tests of ours may have the same name
            self._monkeypatch.delitem(sys.modules, file.stem, raising=False)
        done = self._pytester.runpytest_inprocess(*(arguments or ("specs",)))
        return SimpleNamespace(returncode=done.ret, stdout=done.stdout.str(), stderr=done.stderr.str())

    def pytest_alone(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", *arguments]
        return subprocess.run(command, cwd=self.root, env=dict(os.environ), capture_output=True, text=True, check=False)


@pytest.fixture
def project(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:cacheprovider -p no:anyio -p no:jaxtyping")
    return Project(pytester, monkeypatch)
