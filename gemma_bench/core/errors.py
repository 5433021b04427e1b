"""The errors that a user can act on: one sentence that names what was wrong and what is allowed."""

from collections.abc import Iterable


class GemmaBenchError(Exception):
    """Base of every error that the command line prints without a traceback (exit code 2)."""


class BadInputError(GemmaBenchError):
    """The caller asked for something that does not exist or is out of range."""


class UnavailableError(GemmaBenchError):
    """Something that this machine lacks; `missing` is one word: weights, metal, cuda, mlx, record, …."""

    def __init__(self, missing: str, message: str) -> None:
        """Name what is missing and, in the message, how to get it."""
        super().__init__(message)
        self.missing = missing

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Let the error cross from one process to another."""
        return type(self), (self.missing, str(self))


class InvalidRunError(GemmaBenchError):
    """A measurement broke a validity rule, which it names; its figure is no evidence."""

    def __init__(self, rule: str, message: str) -> None:
        """Name the rule (throttled, swapping, too short, diverged, …) and what was seen."""
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        """Let the error cross from one process to another."""
        return type(self), (self.rule, str(self))


class DamagedFileError(GemmaBenchError):
    """A file is unreadable, truncated, of another schema, or not the one that was promised."""


def unknown(what: str, name: object, allowed: Iterable[object]) -> BadInputError:
    """Build the error for a name that is not in a list: `unknown model 'x', expected one of a, b`."""
    return BadInputError(f"unknown {what} {str(name)!r}, expected one of {', '.join(map(str, allowed))}")
