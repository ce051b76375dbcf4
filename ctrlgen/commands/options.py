"""Options that several commands share, written once, as the fields of a dataclass.

`common` gives --quiet, --verbose and --wide to every command of an application, whosever it is,
--trust to those that take a card, --no-report to those that end with a report; a command that is
interrupted ends in the same way everywhere.
"""

from __future__ import annotations

import functools
import inspect
from ast import literal_eval
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from ctrlgen.commands import console
from ctrlgen.commands.report import concluding
from ctrlgen.priors.trust import trusting
from ctrlgen.runs.interrupts import exit_code

__all__ = ["HERE", "argument", "common", "reporting", "sharing", "with_ray"]

HERE = "here"
"""The address that means a Ray cluster of this machine."""

_OUTPUT = "Output"

_COMMON = {
    "quiet": Annotated[
        bool,
        typer.Option("--quiet", help="No progress, no notes.", rich_help_panel=_OUTPUT),
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", help="Tell more of the run.", rich_help_panel=_OUTPUT)
    ],
    "wide": Annotated[
        bool,
        typer.Option("--wide", help="Tables wider than the terminal.", rich_help_panel=_OUTPUT),
    ],
}

_REPORT = Annotated[
    bool,
    typer.Option("--no-report", help="Write no report.html at the end.", rich_help_panel=_OUTPUT),
]

_CARDS = {"prior", "guide", "evaluator"}
_TRUST = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="A package of yours that a card may name, installed or in the working folder: it is "
        "imported and run with your rights; repeat for several.",
    ),
]


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

        return _signed(command, [*own, *theirs])

    return decorate


def reporting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a command that announces results: it ends with their report, or has --no-report."""
    function.reports = True  # type: ignore[attr-defined]
    return function


def common(app: typer.Typer) -> None:
    """Give every command of an application, and of those below it, the options of all commands."""
    for info in app.registered_commands:
        if info.callback is not None and not hasattr(info.callback, "speaks"):
            info.callback = _speaking(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            common(group.typer_instance)


def _speaking(function: Callable[..., Any]) -> Callable[..., Any]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    names = {p.name for p in own}
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _COMMON.items()
        if name not in names
    ]

    ends = bool(getattr(function, "reports", False))
    if ends:
        kind = inspect.Parameter.KEYWORD_ONLY
        own.append(inspect.Parameter("no_report", kind, default=False, annotation=_REPORT))
    cards = []
    if names & _CARDS:
        kind = inspect.Parameter.KEYWORD_ONLY
        cards = [inspect.Parameter("trust", kind, default=None, annotation=_TRUST)]

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        said = {p.name: values.pop(p.name) for p in added}
        wanted = ends and not values.pop("no_report")
        with (
            console.speaking(**said),
            trusting(values.pop("trust", None) or ()),
            concluding(wanted, bool(values.get("json"))),
        ):
            try:
                return function(**values)
            except KeyboardInterrupt as stop:
                console.warn("interrupted; nothing was written")
                raise typer.Exit(exit_code(stop)) from None

    command.speaks = True  # type: ignore[attr-defined]
    return _signed(command, [*own, *cards, *added])


def _signed(command: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    signature = inspect.Signature(parameters)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def with_ray(words: Sequence[str]) -> list[str]:
    """Words of a command line, in which --ray without an address has one."""
    made = list[str]()
    for word, following in zip(words, [*words[1:], "-"], strict=True):
        made += [word, HERE] if word == "--ray" and following.startswith("-") else [word]
    return made


_WORDS = {"true": True, "false": False, "none": None, "null": None}


def argument(text: str) -> tuple[str, Any]:
    """Name and value of KEY=VALUE as Python reads it; a bare word is text.

    Raises:
        ValueError: for another form.
    """
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise ValueError(f"arg: expected KEY=VALUE, got {text!r}")
    if value.lower() in _WORDS:
        return key, _WORDS[value.lower()]
    try:
        return key, literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
