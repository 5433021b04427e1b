"""What a killed run had found is read back, not found again."""

import json

import pytest

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.kept import kept


def test_each_question_is_asked_once_for_a_folder(tmp_path):
    asked = []

    def find():
        asked.append(1)
        return {"pair": (1, 2.5), "none": None}

    answers = [kept(tmp_path / "run", "some name", find) for _ in range(2)]
    assert answers == [{"pair": [1, 2.5], "none": None}] * 2
    assert len(asked) == 1
    assert kept(tmp_path / "run", "other", lambda: 3) == 3
    assert kept(None, "some name", find) == answers[0]
    assert len(asked) == 2


def test_a_question_that_failed_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        kept(tmp_path, "ratio", lambda: 1 / 0)
    assert kept(tmp_path, "ratio", lambda: 1) == 1


def test_damage_is_named(tmp_path):
    (tmp_path / "ratio.json").write_text(json.dumps([1, 2])[:-1])
    with pytest.raises(DamagedFileError, match=r"ratio\.json is not JSON"):
        kept(tmp_path, "ratio", lambda: 1)


def test_what_has_another_shape_is_damaged(tmp_path):
    assert kept(tmp_path, "steps", lambda: 3, int) == 3
    (tmp_path / "steps.json").write_text('{"arm": 3}')
    with pytest.raises(DamagedFileError, match=r"steps\.json: it: Input should be .*; remove it to find that again"):
        kept(tmp_path, "steps", lambda: 3, int)
    assert kept(tmp_path, "pair", lambda: (1, 2), tuple[int, int]) == (1, 2)
