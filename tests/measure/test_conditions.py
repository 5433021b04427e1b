"""Rules with synthetic samples, systems' reports as they are printed, turns, energy, and the ceiling's buffer."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gemma_bench.core.errors import GemmaBenchError, InvalidRunError
from gemma_bench.measure import bandwidth, energy, nvidia
from gemma_bench.measure.system_state import mac_is_slowed_down, mac_saves_power, throttle_events
from gemma_bench.measure.turn import turn, turn_file
from gemma_bench.measure.validity import (
    RULES,
    Run,
    State,
    broken_rules,
    drift_percent,
    read_state,
    require_valid,
    watched,
)

QUIET = State()
STEADY = (100, 101, 99, 100, 101)


@pytest.mark.parametrize(
    ("before", "after", "duration", "rates", "rule"),
    [
        (QUIET, State(swapped_bytes=4096), 9, STEADY, "swapping"),
        (QUIET, State(throttle_events=3), 9, STEADY, "throttled"),
        (State(is_throttled=True), QUIET, 9, STEADY, "throttled"),
        (QUIET, State(is_low_power=True), 9, STEADY, "low power"),
        (QUIET, State(others_cpu_s=1e6), 9, STEADY, "other load"),
        (State(other_bench_pid=7), QUIET, 9, STEADY, "other bench"),
        (QUIET, QUIET, 0.1, STEADY, "too short"),
        (QUIET, QUIET, 9, (100, 95, 90, 85, 80), "drift"),
    ],
)
def test_each_rule_is_named_when_it_alone_is_broken(before, after, duration, rates, rule):
    found = broken_rules(before, after, duration, rates)
    assert [text.partition(":")[0] for text in found] == [rule]
    with pytest.raises(InvalidRunError) as caught:
        require_valid(found)
    assert caught.value.rule == rule


def test_a_quiet_steady_run_breaks_no_rule():
    assert broken_rules(QUIET, State(others_cpu_s=0.5), 9, STEADY) == []
    require_valid([])


def test_a_rule_looks_at_changes_not_at_what_was_before():
    old = State(swapped_bytes=10**9, throttle_events=50, others_cpu_s=10**6)
    assert broken_rules(old, old, 9, STEADY) == []
    assert all(rule(Run(old, old, 9, STEADY)) is None for rule in RULES)


def test_drift_is_a_direction_not_a_spread():
    assert drift_percent([100, 60, 110, 70, 100]) is None
    assert drift_percent([100, 90, 80, 70, 60]) == pytest.approx(-40)
    assert drift_percent([100, 99.9, 99.8, 99.7, 99.6]) is None
    assert drift_percent([100, 50]) is None


def test_time_of_others_is_seen_and_our_own_is_not():
    """A busy child is another process; a busy loop of ours is not."""
    before = read_state()
    sum(range(20_000_000))
    ours = read_state().others_cpu_s - before.others_cpu_s
    busy = "import time; end = time.process_time() + 1\nwhile time.process_time() < end: pass"
    middle = read_state()
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert read_state().others_cpu_s - middle.others_cpu_s >= 0.9
    assert ours >= -0.05


def test_thermal_events_of_every_core_are_added(tmp_path):
    for core, count in enumerate((2, 3)):
        folder = tmp_path / f"cpu{core}" / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
        (folder / "package_throttle_count").write_text("1\n")
    assert throttle_events(tmp_path) == 7
    assert throttle_events(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("report", "is_slow"),
    [
        (None, False),
        (
            "Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded",
            False,
        ),
        ("CPU_Scheduler_Limit \t= 100\nCPU_Available_CPUs \t= 8\nCPU_Speed_Limit \t= 100", False),
        ("CPU_Scheduler_Limit \t= 100\nCPU_Available_CPUs \t= 8\nCPU_Speed_Limit \t= 62", True),
        ("Thermal Warning Level = 2", True),
    ],
)
def test_what_a_mac_says_of_its_heat(report, is_slow):
    assert mac_is_slowed_down(report) is is_slow


@pytest.mark.parametrize(
    ("settings", "saves"),
    [
        (None, False),
        (" lowpowermode         0\n sleep 1", False),
        (" lowpowermode         1", True),
        (" powermode 2", False),
    ],
)
def test_what_a_mac_says_of_its_power(settings, saves):
    assert mac_saves_power(settings) is saves


class TestTurn:
    def test_the_second_hears_who_is_first(self, tmp_path):
        file = tmp_path / "turn"
        code = "import sys; from pathlib import Path; from gemma_bench.measure.turn import turn\n"
        code += f"with turn(Path({str(file)!r})) as other: print(other)"
        with turn(file) as other:
            assert other is None
            said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            assert int(said) == os.getpid()
            assert file.exists(), "the second does not take the first one's turn away"
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("content", ["", "no number", "999999999"])
    def test_a_turn_of_nobody_alive_is_taken(self, tmp_path, content):
        file = tmp_path / "turn"
        file.write_text(content)
        with turn(file) as other:
            assert other is None
            assert file.read_text() == str(os.getpid())

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path, monkeypatch):
        with pytest.raises(GemmaBenchError, match=r"cannot write .*/nowhere/turn"), turn(tmp_path / "nowhere" / "turn"):
            pass
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
        with pytest.raises(GemmaBenchError, match="No usable temporary directory"):
            turn_file()

    def test_a_turn_ends_with_an_error_too(self, tmp_path):
        with pytest.raises(ValueError, match="x"), turn(tmp_path / "turn"):
            raise ValueError("x")
        assert not list(tmp_path.iterdir())


class Gpu:
    """A driver that answers like NVML."""

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules=(), reasons=0):
        self.millijoules, self.reasons = iter(millijoules), reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, _):  # noqa: N802
        try:
            return next(self.millijoules)
        except StopIteration:
            raise self.NVMLError from None

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _):  # noqa: N802
        return self.reasons


class TestEnergy:
    def test_a_cpu_tells_nothing(self):
        assert energy.energy_window("cpu")() is None

    def test_nvidia_s_counter_is_read_twice(self, monkeypatch):
        gpu = Gpu(millijoules=[5000, 7500])
        monkeypatch.setattr(nvidia, "_device", lambda: (gpu, 0))
        assert energy.energy_window("cuda")() == pytest.approx(2.5)
        assert energy.energy_window("cuda")() is None, "a GPU that does not count"

    @pytest.mark.parametrize(("reasons", "is_slow"), [(0x1, False), (0x4, False), (0x40, True), (0x21, True)])
    def test_heat_slows_a_gpu_down_and_idleness_or_its_power_cap_do_not_count(self, monkeypatch, reasons, is_slow):
        monkeypatch.setattr(nvidia, "_device", lambda: (Gpu(reasons=reasons), 0))
        assert nvidia.is_slowed_down() is is_slow

    def test_apple_s_parts_are_added_and_the_unknown_left_out(self, monkeypatch):
        used = SimpleNamespace(cpu_total_mj=100, gpu_mj=2000, dram_mj=None)
        monitor = SimpleNamespace(begin_window=lambda _: None, end_window=lambda _: used)
        module = SimpleNamespace(AppleEnergyMonitor=lambda: monitor)
        monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
        assert energy.energy_window("metal")() == pytest.approx(2.1)
        monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
        assert energy.energy_window("mps")() is None


@pytest.mark.parametrize(
    ("cache", "free", "expected"),
    [
        (32 * 2**20, 64 * 2**30, 2**30),
        (260 * 2**20, 64 * 2**30, 8 * 260 * 2**20),
        (2**30, 64 * 2**30, 4 * 2**30),
        (260 * 2**20, 4 * 2**30, 2**30),
    ],
)
def test_the_ceiling_is_read_from_more_than_a_cache_holds_and_less_than_memory(cache, free, expected):
    assert bandwidth.buffer_bytes(cache, free) == expected


def test_mlx_reads_at_a_speed_of_the_same_order_as_torch():
    from gemma_bench.measure.bandwidth_mlx import mlx_read_bandwidth_bytes_per_s

    mlx, torch = mlx_read_bandwidth_bytes_per_s(1 << 28), bandwidth.read_bandwidth_bytes_per_s(size_bytes=1 << 28)
    assert 0.05 < mlx / torch < 5


def test_each_backend_is_held_to_the_memory_that_its_weights_lie_in(monkeypatch):
    monkeypatch.setattr(bandwidth, "read_bandwidth_bytes_per_s", lambda device: f"torch {device}")
    monkeypatch.setattr("gemma_bench.measure.bandwidth_mlx.mlx_read_bandwidth_bytes_per_s", lambda: "mlx")
    read = [
        bandwidth.bandwidth_under(SimpleNamespace(name=name, device=device))
        for name, device in (("torch", "cpu"), ("torch", "cuda"), ("mlx", "cpu"), ("mlx", "metal"))
    ]
    assert json.dumps(read) == '["torch cpu", "torch cuda", "torch cpu", "mlx"]'


def test_what_was_watched_is_judged_when_it_is_over():
    with watched(123) as seen:
        sum(range(1000))
    assert seen.duration_s > 0
    assert {rule.partition(":")[0] for rule in seen.broken_rules([1.0])} >= {"other bench", "too short"}
