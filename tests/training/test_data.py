"""Rows become tokens: what is learnt of them, and how they share a batch."""

import json

import pytest

from gemma_bench.core.errors import BadInputError, DamagedFileError
from gemma_bench.models.tokenizer import byte_tokenizer, with_chat_template
from gemma_bench.training.data import IGNORED, Examples, Reading, padded


def examples(tmp_path, rows, **options):
    path = tmp_path / "train.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    return Examples(path, Reading(with_chat_template(byte_tokenizer()), 200, **options))


def test_a_masked_prompt_is_given_and_the_answer_learnt(tmp_path):
    row = {"prompt": "question", "completion": "answer"}
    plain, masked = (examples(tmp_path, [row], mask_prompt=mask)[0] for mask in (False, True))
    assert plain.tokens == masked.tokens
    assert plain.prompt_count == 0
    tokenizer = byte_tokenizer()
    given, learnt = masked.tokens[: masked.prompt_count], masked.tokens[masked.prompt_count :]
    assert "question" in tokenizer.decode(given)
    assert "answer" not in tokenizer.decode(given)
    assert tokenizer.decode(learnt).startswith("answer")
    batch = padded([masked])
    assert (batch["labels"][0, : masked.prompt_count] == IGNORED).all()
    assert batch["labels"][0, masked.prompt_count :].tolist() == learnt


def test_texts_end_and_shorter_rows_are_padded_at_the_right(tmp_path):
    short, long = examples(tmp_path, [{"text": "a"}, {"text": "abc"}]).rows
    assert short.tokens == [2, 6 + ord("a"), 1]
    batch = padded([short, long])
    assert batch["input_ids"][0].tolist() == [*short.tokens, 0, 0]
    assert batch["labels"][0].tolist() == [*short.tokens, IGNORED, IGNORED]
    assert batch["input_ids"][1].tolist() == batch["labels"][1].tolist() == long.tokens


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "a\\ud800b"}', "line 2 is not Unicode: half a surrogate pair"),
        ('{"prompt": "a", "completion": "\\udfff"}', "line 2 is not Unicode"),
        ('{"text": ' + 100_000 * "[" + 100_000 * "]" + "}", "line 2 is nested too deep"),
        ('{"text": ' + 900 * "[" + 900 * "]" + "}", "line 2: text must be text|line 2 is nested too deep"),
    ],
)
def test_what_json_allows_but_no_text_is_is_named_by_file_and_line(tmp_path, line, sentence):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    with pytest.raises(DamagedFileError, match=sentence):
        Examples(path, Reading(byte_tokenizer(), 200))


def test_rows_that_lost_all_that_was_to_be_learnt_are_refused_with_their_count(tmp_path):
    rows = [{"prompt": "a long question", "completion": "answer"}, {"prompt": "another question", "completion": "b"}]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    tokenizer = with_chat_template(byte_tokenizer())
    with pytest.raises(BadInputError, match=r"train\.jsonl: none of 2 rows has a token to learn, 2 were cut at 20"):
        Examples(path, Reading(tokenizer, 20, mask_prompt=True))
    assert Examples(path, Reading(tokenizer, 20)).cut_count == 2


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"text": None}, "text must be text, got null"),
        ({"text": 5}, "text must be text, got 5"),
        ({"prompt": "a", "completion": ["b"]}, r'completion must be text, got \["b"\]'),
        ({"messages": []}, r"messages must be a list of at least one, got \[\]"),
        ({"messages": "a"}, 'messages must be a list of at least one, got "a"'),
        ({"messages": [USER, {"role": "user"}]}, "every message must have role and content as text"),
        ({"messages": [USER, "b"]}, "every message must have role and content as text"),
        ({"messages": [{"role": "alien", "content": "a"}]}, "role must be user, model or .first. system, got alien"),
    ],
)
def test_a_row_without_meaning_is_named_by_file_and_line(tmp_path, row, sentence):
    with pytest.raises(DamagedFileError, match=rf"train\.jsonl, line 3: .*{sentence}"):
        examples(tmp_path, [{"text": "fine"}, row])


@pytest.mark.parametrize("mask", [False, True])
def test_a_message_alone_is_learnt_whole(tmp_path, mask):
    assert examples(tmp_path, [{"messages": [ANSWER]}], mask_prompt=mask)[0].prompt_count == 0


def test_a_separator_of_lines_inside_a_string_is_text(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "one\u2028line"}\r\n{"text": "another\x85"}\n', encoding="utf-8", newline="")
    assert len(Examples(path, Reading(byte_tokenizer(), 200))) == 2
