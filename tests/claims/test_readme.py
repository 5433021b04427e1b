"""README's *your own claim in ten lines* is run as it stands."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def block_after(words):
    section = README.read_text(encoding="utf-8").partition("## Your own claim in ten lines")[2]
    return re.search(r"```python\n(.*?)```", section.partition(words)[2], re.DOTALL).group(1)


@pytest.fixture
def sorting(project):
    for name in ("test_sorting", "faults", "counting"):
        project.write(name, block_after(f"In `specs/{name}.py`"))
    return project


def test_it_is_ten_lines():
    assert len([line for line in block_after("In `specs/test_sorting.py`").splitlines() if line]) <= 10


def test_it_holds_and_its_fault_is_caught(sorting):
    done = sorting.pytest()
    assert done.returncode == 0, done.stdout
    assert "999 comparisons" in done.stdout
    faults = sorting.pytest("specs", "--faults")
    assert faults.returncode == 0, faults.stdout
    assert "SORT-1    catches 1/1" in faults.stdout
    assert "1/1" in sorting.pytest().stdout


def test_a_fault_that_changes_nothing_is_not_caught(sorting):
    sorting.write("faults", "from contextlib import nullcontext\ndef shuffled():\n    return nullcontext()\n")
    faults = sorting.pytest("specs", "--faults")
    assert faults.returncode == 1
    assert "SORT-1 does not catch shuffled" in faults.stdout
