"""Link a commit's checkout and the packages of .venv into asv's small environment: torch is never installed again."""

import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def link(checkout: str) -> None:
    """Write a .pth file: the checkout first, so that its gemma_bench wins over the editable one of .venv."""
    packages = sorted((ROOT / ".venv").glob("lib/python*/site-packages"))
    if not packages:
        sys.exit("no .venv here: run `make setup` first")
    found = Path(sysconfig.get_paths()["purelib"]) / "gemma_bench_benchmarks.pth"
    found.write_text("".join(f"{path}\n" for path in (checkout, *packages)), encoding="utf-8")


if __name__ == "__main__":
    link(sys.argv[1])
