"""A user's mistakes, also under the classes of exceptions that scripts for pycaffe catch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from netc.errors import NetcError, fail

Kind = TypeVar("Kind", bound=NetcError)


class RuntimeMistake(NetcError, RuntimeError):
    """A mistake in a file or in how a net is used: pycaffe has RuntimeError there, or ends."""


class ValueMistake(NetcError, ValueError):
    """An array or a message that is not what a function takes."""


class TypeMistake(NetcError, TypeError):
    """An argument of the wrong kind."""


class FileMistake(NetcError, OSError):
    """A file that cannot be read."""


@contextmanager
def told_as(kind: type[NetcError]) -> Iterator[None]:
    """Let every NetcError of a block, or of a decorated function, be one of this kind too."""
    try:
        yield
    except NetcError as error:
        if isinstance(error, kind):
            raise
        # The same words and the same traceback; showing both exceptions would say it twice.
        raise kind(*error.problems).with_traceback(error.__traceback__) from None


def mistake(kind: type[Kind], what: str, **parts: Any) -> Kind:
    """Build an error of one problem, of this kind, from the arguments of `netc.errors.fail`."""
    return kind(*fail(what, **parts).problems)
