import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from gemma_bench.core.errors import DamagedFileError, GemmaBenchError
from gemma_bench.core.files import new_folder, read_text, sha256, write_text


def test_a_text_is_written_whole(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "äöü")
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "äöü"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "no room on disk"), (errno.EROFS, "cannot write")])
def test_a_refused_write_keeps_the_old_text_and_leaves_nothing(tmp_path, monkeypatch, number, words):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def refuse(self, *_, **__):
        self.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(GemmaBenchError, match=words):
        write_text(path, "new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    with suppress(ZeroDivisionError), new_folder(tmp_path / "model") as partial:
        (partial / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "model") as partial:
        assert not (tmp_path / "model").exists()
        (partial / "whole").touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    killed = f"""
import os, signal, pathlib
from gemma_bench.core.files import new_folder
with new_folder(pathlib.Path({str(tmp_path)!r}) / "model") as partial:
    (partial / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert not (tmp_path / "model").exists()
    assert len(list(tmp_path.iterdir())) == 1
    with new_folder(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_text_that_is_not_utf8_names_the_byte(tmp_path):
    (tmp_path / "prompt").write_bytes(b"ab\xff")
    with pytest.raises(DamagedFileError, match=r"prompt .* is not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "prompt", "prompt")
    with pytest.raises(DamagedFileError, match="cannot be read: No such file"):
        read_text(tmp_path / "none", "prompt")
