import json

import pytest
from pydantic import ValidationError

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.records import Record, Subject, newest_record, read_record, write_record


class Speed(Record):
    decode_tokens_per_s: float


def speed(**fields):
    given = {"experiment": "speed", "experiment_version": 1, "config_json": "{}", "scale": "fixture", "samples": (1.0,)}
    return Speed.measured(Subject(model_id="tiny", seed=0), **{**given, "decode_tokens_per_s": 7.5, **fields})


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = speed()
    path = write_record(record, tmp_path)
    assert path.parent == tmp_path / "records" / "speed"
    assert path.name == record.file_name
    assert read_record(path, Speed) == record


def test_a_record_says_where_it_comes_from():
    record = speed()
    assert record.machine_id
    assert record.chip
    assert record.libraries["numpy"]
    assert record.date_utc.endswith("Z")
    assert record.model_id == "tiny"


def test_two_records_of_one_second_and_one_configuration_are_both_kept(tmp_path):
    paths = [write_record(speed(decode_tokens_per_s=rate), tmp_path) for rate in (7.5, 8.5)]
    assert sorted(paths) == paths
    assert [read_record(path, Speed).decode_tokens_per_s for path in paths] == [7.5, 8.5]


def test_records_are_superseded_never_edited(tmp_path):
    record = speed()
    write_record(record, tmp_path)
    with pytest.raises(DamagedFileError, match="superseded, never edited"):
        write_record(record, tmp_path)
    with pytest.raises(ValidationError):
        record.decode_tokens_per_s = 9.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "field colour: Extra inputs are not permitted"),
        ({"decode_tokens_per_s": "fast"}, "field decode_tokens_per_s"),
        ({"schema_version": 0}, "schema_version must be 1, got 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path, change, message):
    path = write_record(speed(), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DamagedFileError, match=message) as caught:
        read_record(path, Speed)
    assert path.name in str(caught.value)


def test_nan_is_refused_both_ways(tmp_path):
    with pytest.raises(ValidationError, match="finite"):
        speed(decode_tokens_per_s=float("nan"))
    path = write_record(speed(), tmp_path)
    path.write_text(path.read_text().replace("7.5", "NaN"))
    with pytest.raises(DamagedFileError, match="NaN is not a number"):
        read_record(path, Speed)


def test_the_newest_record_of_a_clean_commit_counts(tmp_path):
    clean = {"commit": "a" * 40, "commit_is_clean": True}
    old, new, dirty = (
        speed().model_copy(update={**clean, "date_utc": f"2026-01-0{day}T00:00:00Z", **more})
        for day, more in ((1, {}), (2, {"decode_tokens_per_s": 9.0}), (3, {"commit_is_clean": False}))
    )
    assert newest_record(tmp_path, "speed", Speed) is None
    for record in (new, dirty, old):
        write_record(record, tmp_path)
    found = newest_record(tmp_path, "speed", Speed)
    assert found is not None
    assert found[1] == new


def test_a_claim_chooses_the_configuration_and_the_version_of_its_record(tmp_path):
    clean = {"commit": "a" * 40, "commit_is_clean": True}
    study, fixture, older = (
        speed(scale=scale, experiment_version=version).model_copy(
            update={**clean, "date_utc": f"2026-01-0{day}T00:00:00Z"}
        )
        for day, scale, version in ((1, "study", 2), (2, "fixture", 2), (3, "study", 1))
    )
    for record in (study, fixture, older):
        write_record(record, tmp_path)

    def newest(**choice):
        found = newest_record(tmp_path, "speed", Speed, **choice)
        return found and found[1]

    assert newest() == older
    assert newest(version=2) == fixture
    assert newest(version=2, where=lambda record: record.scale == "study") == study
    assert newest(where=lambda record: record.scale == "full") is None


def test_records_of_another_version_are_not_read_for_their_fields(tmp_path):
    grown = speed(experiment_version=2).model_copy(update={"commit": "a" * 40, "commit_is_clean": True})
    path = write_record(grown, tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "a_field_of_version_2": 1}))
    assert newest_record(tmp_path, "speed", Speed, version=1) is None
    with pytest.raises(DamagedFileError, match="a_field_of_version_2"):
        newest_record(tmp_path, "speed", Speed, version=2)


def test_a_copy_without_git_knows_no_commit_unless_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (speed().commit, speed().commit_is_clean) == (None, False)
    monkeypatch.setenv("GEMMA_BENCH_COMMIT", "b" * 40)
    assert (speed().commit, speed().commit_is_clean) == ("b" * 40, True)
    monkeypatch.setenv("PATH", "")
    assert speed().commit == "b" * 40
