"""A pytest plugin: the study's machine, played from recorded samples (JSON in FAKE_M3_ULTRA)."""

import json
import os
from types import SimpleNamespace

import pytest

from gemma_bench.core.known_machines import M3_ULTRA
from gemma_bench.measure.correctness import OutputCheck
from gemma_bench.measure.throughput import Trial
from gemma_bench.measure.validity import State


@pytest.fixture(scope="session", autouse=True)
def _m3_ultra():
    from gemma_bench.experiments import study_table

    played = json.loads(os.environ["FAKE_M3_ULTRA"])
    states = iter([State(), State(**played.get("after", {}))])

    def weigh(_, __, meter):
        meter.phases["decode"] = SimpleNamespace(live_bytes=played["peak_bytes"])

    def in_turn(cases, rounds):
        assert rounds == len(played["rates"]["mlx 4-bit"])
        for turn in range(rounds):
            yield {row: trial(cases[row][1], played["rates"][row][turn]) for row in cases}

    def trial(workload, rate):
        stamps = tuple(round(1e9 * (1 + index / rate)) for index in range(workload.new_tokens))
        return Trial(workload, 0, stamps, ((7,) * workload.new_tokens,))

    def check_output(backend, _, __, reference):
        """Find float16 wrong only against another library: both of its own ways overflow alike."""
        gap = played.get("float16_gap_nats", 0.0) if reference == ("12b-it", "mlx", "metal", "bfloat16") else 0.0
        is_finite = not (backend[-1] == "float16" and played.get("float16_is_nan"))
        return OutputCheck(is_finite, 1.0, gap if is_finite else None, 32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_table, "this_machine", lambda: SimpleNamespace(id=M3_ULTRA.id))
        patch.setattr(study_table, "load", lambda *what: what)
        patch.setattr(study_table, "watched", lambda _: SimpleNamespace(phases={}))
        patch.setattr(study_table, "run_trial", lambda *_: None)
        patch.setattr(study_table, "read_state", lambda *_: next(states))
        for stand_in in (weigh, in_turn, check_output):
            patch.setattr(study_table, stand_in.__name__, stand_in)
        yield
