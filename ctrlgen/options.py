"""Options that several commands share, written once, as the fields of a dataclass."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

__all__ = ["sharing"]


def sharing(shared: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that gives a command the fields of a dataclass as options.

    The command receives them as one value of that class, its parameter `options`; they follow its
    own options in the help.

    Args:
        shared: a dataclass whose fields are annotated as typer's options and have defaults.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(shared, include_extras=True)
        theirs = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name]
            )
            for f in fields(shared)
        ]
        mine = inspect.signature(function, eval_str=True)
        own = [p for p in mine.parameters.values() if p.name != "options"]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            options = shared(**{f.name: values.pop(f.name) for f in fields(shared)})
            function(**values, options=options)

        signature = inspect.Signature([*own, *theirs])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate
