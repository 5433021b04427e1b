"""House rules that no linter knows: functions and modules stay short, packages' __init__ stay empty."""

import ast
import inspect
import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "gemma_bench").rglob("*.py"))
SERIES = sorted((ROOT / "asv_benches" / "benchmarks").glob("[!_]*.py"))
FUNCTION_LINES, MODULE_LINES, USUAL_LINES = 50, 250, 35


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines(node):
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    assert [node.name for node in functions(path) if lines(node) > FUNCTION_LINES] == []


def test_nine_functions_of_ten_are_under_35_lines():
    lengths = [lines(node) for path in MODULES for node in functions(path)]
    assert sum(length < USUAL_LINES for length in lengths) >= 0.9 * len(lengths)


@pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("test_*.py")), ids=lambda path: path.name)
def test_specs_are_thin(path):
    """A spec's body has about 15 lines, and the file imports only the vocabulary and the sources at the top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported <= {"gemma_bench.claims", "sources"}
    assert [node.name for node in functions(path) if lines(node) > 20] == []


def test_names_say_what_a_module_is_about():
    assert not {"utils", "helpers", "common", "manager", "misc"} & {path.stem for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_mlx_is_imported_only_where_the_name_says_so(path):
    imports = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom)}
    if {name.partition(".")[0] for name in names} & {"mlx", "mlx_lm"}:
        assert path.stem == "mlx" or path.stem.endswith("_mlx")


@pytest.mark.parametrize("path", SERIES, ids=lambda path: path.name)
def test_every_series_has_a_version_of_its_own(path):
    """Without one asv hashes the code, and a comment begins a new series."""
    own = [value for value in runpy.run_path(path).values() if getattr(value, "__module__", None) == "<run_path>"]
    series = [value for value in own if inspect.isclass(value) or value.__name__.startswith("track_")]
    assert [one.__name__ for one in series if not hasattr(one, "version")] == []
    assert series


def test_a_quick_run_differs_only_in_what_it_keeps():
    usual, quick = (json.loads((ROOT / "asv_benches" / f"{name}.conf.json").read_text()) for name in ("asv", "quick"))
    assert usual.pop("results_dir") == "../results/asv"
    assert quick.pop("results_dir") == "../build/asv/quick"
    assert usual == quick
