"""A container's limit counts as the host's does, and the cache in it is free."""

import psutil
import pytest

from gemma_bench.core.available_memory import available_bytes

GROUPS = {
    "version 2": ("0::/a/b", "sys/fs/cgroup/a", "memory.max", "memory.current", "inactive_file"),
    "version 1": (
        "4:cpu,memory:/a/b",
        "sys/fs/cgroup/memory/a",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


@pytest.mark.parametrize(("line", "folder", "limit", "usage", "cache"), GROUPS.values(), ids=GROUPS)
def test_the_group_around_this_process_bounds_it(tmp_path, line, folder, limit, usage, cache):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:pids:/x\n{line}\n")
    group = tmp_path / folder
    group.mkdir(parents=True)
    (group / limit).write_text("10000\n")
    (group / usage).write_text("4000\n")
    (group / "memory.stat").write_text(f"anon 1\n{cache} 1500\n")
    assert available_bytes(tmp_path) == 10000 - 4000 + 1500
    (group / limit).write_text("3000\n")
    assert available_bytes(tmp_path) == 500
    (group / limit).write_text("max\n" if limit == "memory.max" else f"{2**63}\n")
    assert available_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_without_groups_it_is_the_hosts(tmp_path):
    assert available_bytes(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
