"""What a recorded claim says and allows was committed before the record that it judges."""

import ast
import json
import subprocess
from pathlib import Path

import pytest

from gemma_bench.claims.contents import read_specs

ROOT = Path(__file__).parents[2]


def promises(text):
    """Return what every spec of a file says and allows, by the id of its claim."""
    found = {}
    for node in ast.parse(text).body:
        claims = [call for call in getattr(node, "decorator_list", []) if getattr(call.func, "id", "") == "claim"]
        if claims:
            name = next(word.value.value for word in claims[0].keywords if word.arg == "id")
            judged = [call for call in ast.walk(node) if getattr(getattr(call, "func", None), "id", "") == "judge"]
            found[name] = ast.get_docstring(node).split("\n")[0], [ast.unparse(call.args[1]) for call in judged]
    return found


def git(*arguments):
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def recorded():
    """Yield the recorded claims of the committed ledger, with the spec's file and the commit that made the record."""
    lines = {line["id"]: line for line in json.loads((ROOT / "results" / "ledger.json").read_text())["claims"]}
    for spec in read_specs([ROOT / "specs"])[0]:
        record = lines.get(spec.claim.id, {}).get("record")
        if spec.claim.kind == "recorded" and record:
            yield spec.claim.id, spec.path, json.loads((ROOT / record).read_text())["commit"]


@pytest.mark.parametrize(("name", "path", "commit"), list(recorded()))
def test_a_threshold_is_older_than_its_record(name, path, commit):
    if git("cat-file", "-e", f"{commit}^{{commit}}").returncode:
        pytest.skip(f"this checkout has no history back to {commit[:8]}")
    then = git("show", f"{commit}:{path.relative_to(ROOT).as_posix()}").stdout
    assert promises(then).get(name) == promises(path.read_text(encoding="utf-8"))[name]


def test_a_moved_threshold_is_seen():
    text = '@claim(id="A-1")\ndef test_a(judge):\n    """Things hold."""\n    judge(measured, at_most({}), "why")\n'
    assert promises(text.format(5)) == {"A-1": ("Things hold.", ["at_most(5)"])}
    assert promises(text.format(5)) != promises(text.format(6))
