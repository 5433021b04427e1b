"""Kernels in C: built once, named by their text, and a reason where there is none."""

import pytest

from gemma_bench.core.errors import UnavailableError
from gemma_bench.models import compiled
from gemma_bench.models.compiled import Kernels


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMMA_BENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path):
    return tmp_path / "answer.c"


needs_compiler = pytest.mark.skipif(not compiled.shutil.which("cc"), reason="no C compiler")


@needs_compiler
def test_another_text_is_another_build(source, home):
    for answer in (42, 43, 43):
        source.write_text(f"int answer(void) {{ return {answer}; }}")
        assert Kernels(source).required().answer() == answer
    assert len(list((home / "kernels").iterdir())) == 2


@needs_compiler
def test_what_the_compiler_refuses_is_told_and_nothing_is_left(source, home):
    source.write_text("int answer(void) { return forty_two; }")
    kernels = Kernels(source)
    assert kernels.load() is None
    with pytest.raises(UnavailableError, match=r"answer\.c:1:.*error:.*forty_two"):
        kernels.required()
    assert not list((home / "kernels").iterdir())


def test_a_machine_without_a_compiler_says_so(source, monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    source.write_text("int answer;")
    assert Kernels(source).load() is None
    with pytest.raises(UnavailableError, match="install gcc or clang"):
        Kernels(source).required()
