"""Reading specs without importing them: the table of contents, and every mistake in it with file and line."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gemma_bench.claims.claim import Claim, first_sentence
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import read_text


@dataclass(frozen=True)
class Spec:
    """A claim and where its spec stands."""

    claim: Claim
    path: Path
    line: int
    function: str


class MistakeError(BadInputError):
    """Something in a spec that stops the run before anything executes."""

    def __init__(self, path: Path, line: int, message: str) -> None:
        """Lead with file and line, as compilers do."""
        super().__init__(f"{path}:{line}: {message}")


def read_specs(paths: Iterable[Path]) -> tuple[list[Spec], list[MistakeError]]:
    """Read the claims of all spec files below `paths`, and what is wrong with them."""
    specs: list[Spec] = []
    mistakes: list[MistakeError] = []
    seen: dict[str, Spec] = {}
    for file in spec_files(paths):
        for found in _specs_of(file):
            if isinstance(found, MistakeError):
                mistakes.append(found)
            elif first := seen.get(found.claim.id):
                where = f"{first.path}:{first.line}"
                mistakes.append(MistakeError(file, found.line, f"claim id {found.claim.id} is taken by {where}"))
            else:
                seen[found.claim.id] = found
                specs.append(found)
    return specs, mistakes


def contents_lines(specs: Iterable[Spec]) -> Iterator[str]:
    """Yield the lines of a table of contents: headlines, and the claims below each."""
    headline = None
    for spec in specs:
        if spec.claim.headline != headline:
            headline = spec.claim.headline
            yield f"\n{headline}"
        yield f"  {spec.claim.id:<9} {spec.claim.kind:<10} {spec.claim.scale:<7} {spec.claim.sentence}"


def spec_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files named, and `test_*.py` of the folders named, that hold a claim."""
    for path in paths:
        if not path.exists():
            raise BadInputError(f"no specs at {path}")
        for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
            if "@claim(" in read_text(file, "spec"):
                yield file


def fault_files(spec_file: Path) -> list[Path]:
    """Return the modules that hold a spec's faults: `faults.py` beside it, or every module of `faults/`."""
    alone = spec_file.with_name("faults.py")
    return [alone] if alone.exists() else sorted(spec_file.with_name("faults").glob("*.py"))


def _specs_of(file: Path) -> Iterator[Spec | MistakeError]:
    try:
        tree = _module(file)
        names, faults = _constants(file.with_name("sources.py")), _faults(file)
    except SyntaxError as error:
        yield MistakeError(Path(error.filename or file), error.lineno or 1, f"is not Python: {error.msg}")
        return
    except MistakeError as mistake:
        yield mistake
        return
    seen: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (call := _claim_call(node)):
            try:
                if node not in tree.body or isinstance(node, ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                    why = f"spec {node.name} must be a plain function test_… at the top of its file"
                    raise MistakeError(file, node.lineno, why)
                if node.name in seen:
                    raise MistakeError(file, node.lineno, f"spec {node.name} stands twice in this file")
                seen.add(node.name)
                yield Spec(_claim(node, call, file, names, faults), file, node.lineno, node.name)
            except MistakeError as mistake:
                yield mistake


def _claim_call(node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.Call | None:
    calls = (decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call))
    return next((call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "claim"), None)


def _claim(node: ast.FunctionDef, call: ast.Call, file: Path, names: dict[str, str], faults: set[str]) -> Claim:
    if call.args:
        raise MistakeError(file, call.lineno, "a claim takes keyword arguments only")
    fields = {word.arg: _literal(word.value, word.arg, file, names) for word in call.keywords if word.arg}
    sentence = first_sentence(ast.get_docstring(node) or "")
    if not sentence:
        raise MistakeError(file, node.lineno, f"spec {node.name} has no sentence: the docstring's first sentence is it")
    if not fields.get("faults"):
        raise MistakeError(file, call.lineno, f"claim {fields.get('id')} has no fault that its check must catch")
    try:
        made = Claim.model_validate({**fields, "sentence": sentence})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise MistakeError(file, call.lineno, f"claim {fields.get('id')}, {field}: {first['msg']}{got}") from error
    if unknown := [fault for fault in made.faults if fault not in faults]:
        raise MistakeError(
            file, call.lineno, f"claim {made.id}: no function {unknown[0]} in {file.with_name('faults.py')} or faults/"
        )
    return made


def _literal(node: ast.expr, field: str, file: Path, names: dict[str, str]) -> object:
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise MistakeError(file, node.lineno, f"unknown {field} {node.id}: no such name in sources.py")
        return names[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        shown = ast.unparse(node)
        raise MistakeError(
            file, node.lineno, f"{field} must be a literal or a name from sources.py, got {shown}"
        ) from error


def _constants(file: Path) -> dict[str, str]:
    """Read the `NAME = "text"` lines of `sources.py`."""
    return {
        node.targets[0].id: node.value.value
        for node in _module(file).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _faults(spec_file: Path) -> set[str]:
    found: set[str] = set()
    for file in fault_files(spec_file):
        functions = {node.name: node for node in _module(file).body if isinstance(node, ast.FunctionDef)}
        public = {name for name in functions if not name.startswith("_")}
        if twice := sorted(public & found):
            raise MistakeError(file, functions[twice[0]].lineno, f"fault {twice[0]} stands in another module too")
        found |= public
    return found


def _module(file: Path) -> ast.Module:
    return ast.parse(read_text(file, "spec") if file.exists() else "", filename=str(file))
