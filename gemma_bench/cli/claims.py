"""`claims`, `ledger`, `report`: what is claimed, what was found, and how it is shown."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma_bench.claims.contents import Spec, read_specs
from gemma_bench.claims.ledger import Ledger, read_ledger
from gemma_bench.cli.console import Json, output, print_json
from gemma_bench.core.errors import UnavailableError, unknown

app = typer.Typer(help="List, show and run the claims.", no_args_is_help=True)

Specs = Annotated[Path, typer.Option(help="The folder of the specs.")]
LedgerFile = Annotated[
    Path | None, typer.Option("--ledger", help="A ledger's JSON. Default: the last run's, or the committed one.")
]

FRESH, COMMITTED, PAGE = Path("build/ledger.json"), Path("results/ledger.json"), Path("build/ledger.html")

_EXIT_CODES = {4: 2, 5: 2}
"""pytest's own codes for usage errors and for nothing collected become `could not run`."""


@app.command("list")
def list_(specs: Specs = Path("specs"), json: Json = False) -> None:
    """List every claim."""
    found = _specs(specs)
    if json:
        print_json([_row(spec) for spec in found])
        return
    headline = None
    for spec in found:
        if spec.claim.headline != headline:
            headline = spec.claim.headline
            output.print(f"\n[bold]{headline}[/bold]", highlight=False)
        output.print(f"  {spec.claim.id:<9} {spec.claim.kind:<10} {spec.claim.sentence}", highlight=False, markup=False)


@app.command()
def show(claim: Annotated[str, typer.Argument(metavar="ID")], specs: Specs = Path("specs"), json: Json = False) -> None:
    """Show one claim, where its spec stands, and what was last found."""
    row = _row(_find(claim, specs))
    last = _last_ledger()
    lines = [line for line in last.claims if line.id == claim] if last else []
    if lines:
        row |= {"last_" + name: value for name, value in lines[0].model_dump().items() if name not in row}
    if json:
        print_json(row)
        return
    for name, value in row.items():
        output.print(f"{name:>18}  {value}", highlight=False, markup=False)


@app.command()
def run(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Claims to run. Default: all.")] = None,
    specs: Specs = Path("specs"),
    scale: Annotated[str, typer.Option(help="fixture, study, long or full.")] = "fixture",
    faults: Annotated[bool, typer.Option(help="Plant each claim's faults instead.")] = False,
    record: Annotated[bool, typer.Option(help="Write under results/ instead of build/.")] = False,
    strict_claims: Annotated[bool, typer.Option(help="Exit 3 if a claim stays undecided.")] = False,
    require_hardware: Annotated[bool, typer.Option(help="Exit 3 if a claim about hardware was not run.")] = False,
) -> None:
    """Run the claims with pytest; end with the ledger and its page."""
    flags = {"faults": faults, "record": record, "strict-claims": strict_claims, "require-hardware": require_hardware}
    where = [_node(_find(name, specs)) for name in ids or []] or [str(specs)]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *where,
        "-q",
        "--scale",
        scale,
        *(f"--{flag}" for flag, on in flags.items() if on),
    ]
    code = subprocess.run(command, check=False).returncode  # noqa: S603
    if code in (0, 1, 3) and not faults:
        report(COMMITTED if record else FRESH)
    raise typer.Exit(_EXIT_CODES.get(code, code))


def ledger(
    file: LedgerFile = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
    write: Annotated[bool, typer.Option(help="Render results/ledger.json into LEDGER.md and README.")] = False,
    json: Json = False,
) -> None:
    """Show a ledger."""
    from gemma_bench.claims.table import ledger_table
    from gemma_bench.report.markdown import ledger_markdown, write_documents

    if write:
        for path in write_documents(Path()):
            output.print(f"wrote {path}", highlight=False)
        return
    found = _ledger(file)
    if json:
        print_json(found.model_dump(mode="json"))
    elif markdown:
        typer.echo(ledger_markdown(found))
    else:
        output.print(ledger_table(found))


def report(
    file: LedgerFile = None,
    page: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = PAGE,
    pictures: Annotated[bool, typer.Option(help="Draw the experiments' records under results/pictures too.")] = False,
) -> None:
    """Write the ledger as one self-contained HTML page."""
    from gemma_bench.report.page import write_page

    written = write_page(_ledger(file), Path(), page)
    output.print(f"page: {written}", highlight=False, soft_wrap=True)
    if pictures:
        from gemma_bench.report.page_pictures import write_pictures

        for path in write_pictures(Path()):
            output.print(f"picture: {path}", highlight=False, soft_wrap=True)


def _ledger(file: Path | None) -> Ledger:
    found = read_ledger(file) if file else _last_ledger()
    if found is None:
        raise UnavailableError("record", f"no ledger at {FRESH} or {COMMITTED}: run `gemma-bench claims run`")
    return found


def _last_ledger() -> Ledger | None:
    return next((read_ledger(path) for path in (FRESH, COMMITTED) if path.exists()), None)


def _specs(folder: Path) -> list[Spec]:
    found, mistakes = read_specs([folder])
    if mistakes:
        raise mistakes[0]
    return found


def _find(name: str, folder: Path) -> Spec:
    by_id = {spec.claim.id: spec for spec in _specs(folder)}
    if name not in by_id:
        raise unknown("claim", name, by_id)
    return by_id[name]


def _node(spec: Spec) -> str:
    return f"{spec.path}::{spec.function}"


def _row(spec: Spec) -> dict[str, Any]:
    return {**spec.claim.model_dump(), "spec": f"{spec.path}:{spec.line}"}
