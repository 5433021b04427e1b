"""The templates of this package: what they print is escaped, and a name that they do not know is an error."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """Return where templates are found by name."""
    return Environment(
        loader=PackageLoader("gemma_bench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
