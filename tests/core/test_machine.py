import json
import re

import pytest

from gemma_bench.core import machine
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.known_machines import M3_ULTRA, known_machine
from gemma_bench.core.machine import apple_id, metal_cores, output_of, this_machine


def test_the_study_s_machine_is_named_as_the_claims_name_it():
    assert apple_id("Apple M3 Ultra", 80, 256 * 2**30) == M3_ULTRA.id


def test_metal_cores_are_read_from_the_system_profile():
    profile = json.dumps({"SPDisplaysDataType": [{"sppci_model": "Apple M3 Ultra", "sppci_cores": "80"}]})
    assert metal_cores(profile) == 80
    assert metal_cores(None) is None


def test_this_machine_s_id_tells_hosts_apart(monkeypatch):
    this_machine.cache_clear()
    ours = this_machine()
    assert ours.cores_count >= 1
    assert ours.memory_bytes > 2**28
    monkeypatch.setattr(machine.socket, "gethostname", lambda: "another-host")
    this_machine.cache_clear()
    theirs = this_machine()
    this_machine.cache_clear()
    if not ours.chip.startswith("Apple"):
        assert re.fullmatch(r"[a-z]+-[a-z0-9_]+-\d+c-\d+gb-[0-9a-f]{4}", ours.id)
        assert ours.id[:-4] == theirs.id[:-4]
        assert ours.id != theirs.id


def test_a_command_that_is_not_there_says_nothing():
    assert output_of("no-such-command-anywhere") is None


def test_an_unknown_machine_lists_the_known():
    with pytest.raises(BadInputError, match="unknown machine 'm9', expected one of m3ultra-80c-256gb"):
        known_machine("m9")
