import pytest

from gemma_bench.claims.claim import first_sentence
from gemma_bench.claims.contents import read_specs

GOOD = {
    "id": '"A-1"',
    "version": "1",
    "headline": '"Things hold"',
    "kind": '"identity"',
    "source": '"somebody"',
    "expect": '"holds"',
    "faults": '["broken_thing"]',
}


def spec(docstring='"""Things hold. More words."""', **changes):
    words = ", ".join(f"{name}={value}" for name, value in {**GOOD, **changes}.items() if value)
    return f"from gemma_bench.claims import claim\n\n\n@claim({words})\ndef test_things(judge):\n    {docstring}\n"


@pytest.fixture
def written(tmp_path):
    (tmp_path / "faults.py").write_text("def broken_thing(): ...\n")
    (tmp_path / "sources.py").write_text('PAPER = "Somebody et al., 2025"\n')

    def write(*texts):
        for index, text in enumerate(texts):
            (tmp_path / f"test_{index}.py").write_text(text)
        return read_specs([tmp_path])

    return write


def test_a_claim_is_read_without_being_imported(written):
    specs, mistakes = written(spec(source="PAPER") + "\nraise RuntimeError('imported')\n")
    assert not mistakes
    assert specs[0].claim.sentence == "Things hold."
    assert specs[0].claim.source == "Somebody et al., 2025"
    assert (specs[0].function, specs[0].line) == ("test_things", 5)


def test_faults_may_stand_in_a_module_per_chapter_each_name_once(tmp_path, written):
    (tmp_path / "faults.py").unlink()
    (tmp_path / "faults").mkdir()
    for module in ("cooking", "sorting"):
        (tmp_path / "faults" / f"{module}.py").write_text(f"def broken_{module}(): ...\ndef _shared(): ...\n")
    specs, mistakes = written(spec(faults='["broken_sorting"]'))
    assert len(specs) == 1
    assert not mistakes
    (tmp_path / "faults" / "twice.py").write_text("def broken_sorting(): ...\n")
    specs, mistakes = written(spec(faults='["broken_sorting"]'))
    assert "twice.py:1: fault broken_sorting stands in another module too" in str(mistakes[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (spec(docstring="pass"), "test_0.py:5: spec test_things has no sentence"),
        (spec(kind='"magic"'), "test_0.py:4: claim A-1, kind: Input should be 'identity', 'arithmetic'.*got 'magic'"),
        (spec(source="BOOK"), "test_0.py:4: unknown source BOOK: no such name in sources.py"),
        (spec(id='"A" + "1"'), "test_0.py:4: id must be a literal or a name from sources.py, got 'A' \\+ '1'"),
        (spec(faults="[]"), "test_0.py:4: claim A-1 has no fault"),
        (spec(faults=""), "test_0.py:4: claim A-1 has no fault"),
        (spec(faults='["other"]'), "test_0.py:4: claim A-1: no function other in .*faults.py"),
        (spec(expect='"maybe"'), "test_0.py:4: claim A-1, expect: .*got 'maybe'"),
        (spec(version=""), "test_0.py:4: claim A-1, version: Field required"),
        (spec(scale='"huge"'), "test_0.py:4: claim A-1, scale"),
        (spec(colour='"red"'), "test_0.py:4: claim A-1, colour: Extra inputs are not permitted"),
        (spec().replace("def test_things", "async def test_things"), "must be a plain function test_"),
        (spec().replace("def test_things", "def check_things"), "must be a plain function test_"),
        ("@claim(\n", "test_0.py:1: is not Python"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(written, text, message):
    specs, mistakes = written(text)
    assert not specs
    assert len(mistakes) == 1
    with pytest.raises(type(mistakes[0]), match=message):
        raise mistakes[0]


def test_a_function_stands_once_in_a_file(written):
    specs, mistakes = written(spec() + spec(id='"A-2"'))
    assert [found.claim.id for found in specs] == ["A-1"]
    assert "spec test_things stands twice in this file" in str(mistakes[0])


def test_an_id_is_taken_once(written):
    specs, mistakes = written(spec(), spec())
    assert len(specs) == 1
    assert "test_1.py:5: claim id A-1 is taken by" in str(mistakes[0])


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One. Two.", "One."),
        ("Models hold 3.6 bits\n    per parameter. Then more.", "Models hold 3.6 bits per parameter."),
        ("No stop", "No stop"),
        ("", ""),
    ],
)
def test_the_first_sentence_is_the_claim(docstring, sentence):
    assert first_sentence(docstring) == sentence
