"""Who takes part at a budget: a method with the settings of its search, or why it cannot."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ctrlgen.comparison.posed import Posed
from ctrlgen.methods import BestOf
from ctrlgen.methods.base import Method
from ctrlgen.methods.blackbox.search import STEPS
from ctrlgen.methods.catalogue import spelled
from ctrlgen.methods.tuned import METHODS
from ctrlgen.methods.tuned.knobs import FACTORS, variants
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.errors import UnknownName, short

__all__ = ["Candidate", "Entrant", "candidates", "check_budgets", "entrants", "parse_budget"]

_BEST_OF = "best-of"

Entrant = Method | Callable[[int], Method]
"""A method of fixed settings, or one that is made for a number of evaluations."""


@dataclass(frozen=True)
class Candidate:
    """A method at a budget.

    Attributes:
        name: of it.
        budget: evaluations of the network a sample, at most.
        settings: those of its search by their labels, the usual ones first; none where it cannot.
        reason: why it cannot.
    """

    name: str
    budget: int
    settings: dict[str, Method] = field(default_factory=dict)
    reason: str | None = None


def entrants(
    methods: Sequence[str] | Mapping[str, Entrant | None] | None, gradient: bool = True
) -> dict[str, Entrant | None]:
    """Methods by their names, in their order; None for one whose settings are the tuned ones.

    Args:
        methods: names of `ctrlgen methods`; or by name a method, or a function from a number of
            evaluations to one; None for all that have tuned settings.
        gradient: whether the measurement has one; where it has none, the best of as many draws as
            the budget allows is one of all.

    Raises:
        UnknownName: for a name that is none.
        TypeError: for something else than a method.
        ValueError: without a method, or with one twice.
    """
    if methods is None:
        return dict.fromkeys(METHODS if gradient else (_BEST_OF, *METHODS))
    if isinstance(methods, str):
        methods = methods.split(",")
    given = methods if isinstance(methods, Mapping) else dict.fromkeys(methods)
    made: dict[str, Entrant | None] = {}
    for name, entrant in given.items():
        if not isinstance(name, str):
            raise TypeError(f"methods: expected names, or methods by name, got {short(name)}")
        if entrant is not None and not callable(entrant):
            raise TypeError(f"methods: {name}: expected a method, got {short(entrant)}")
        key = _name(name.strip()) if entrant is None else name
        if key in made:
            raise ValueError(f"methods: {key} is named twice")
        made[key] = entrant
    if not made or len(made) < len(given):
        raise ValueError("methods: expected at least one name, got none")
    return made


def _name(word: str) -> str:
    try:
        return spelled(word, (*METHODS, _BEST_OF))
    except UnknownName as error:
        near = difflib.get_close_matches(word.lower(), (*METHODS, _BEST_OF), 3, 0.5)
        if not near:
            raise
        raise ValueError(
            f"methods: {word!r} is not known; did you mean {' or '.join(near)}? "
            "`ctrlgen methods` lists them all"
        ) from error


def check_budgets(budgets: int | Sequence[int]) -> list[int]:
    """Budgets in rising order.

    Raises:
        ValueError: for one that is no whole number above 0, or comes twice, or none.
    """
    listed = [budgets] if isinstance(budgets, int) else list(budgets)
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"budgets: expected whole numbers above 0, got {short(value)}")
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"budgets: expected each number once, got {short(listed)}")
    return sorted(listed)


def parse_budget(text: str) -> list[int]:
    """The numbers of "evaluations=50,200,1000".

    Raises:
        ValueError: for another form.
    """
    kind, equals, numbers = text.partition("=")
    words = [word.strip() for word in numbers.split(",")]
    if kind.strip() != "evaluations" or not equals or not all(word.isdecimal() for word in words):
        raise ValueError(
            f"budget: expected evaluations=N,N,... as in evaluations=50,200, got {text!r}"
        )
    try:
        return check_budgets([int(word) for word in words])
    except ValueError as error:
        raise ValueError(f"budget: {str(error).partition(': ')[2]}") from error


def candidates(
    prior: Prior,
    problem: Posed,
    methods: Mapping[str, Entrant | None],
    budgets: Sequence[int],
    factors: Sequence[float] = FACTORS,
) -> list[Candidate]:
    """Everybody at every budget; nothing is computed.

    Args:
        prior: whose solver says what a draw takes.
        problem: what is solved.
        methods: see `entrants`.
        budgets: evaluations a sample.
        factors: of the knobs; none for the usual settings alone.
    """
    return [
        _candidate(prior, problem, name, entrant, budget, factors)
        for budget in budgets
        for name, entrant in methods.items()
    ]


def _candidate(
    prior: Prior,
    problem: Posed,
    name: str,
    entrant: Entrant | None,
    budget: int,
    factors: Sequence[float],
) -> Candidate:
    def make(**options: str) -> Method:
        if entrant is None and name == _BEST_OF:
            return _best_of(prior.solver(STEPS).evaluations, budget)
        if entrant is None:
            return problem.method(name, evaluations=budget, **options)
        return entrant if isinstance(entrant, Method) else entrant(budget)

    try:
        made = make()
        if not isinstance(made, Method):
            raise TypeError(f"methods: {name}: expected a method, got {short(made)}")
        settings = variants(name if entrant is None else "", make, factors)
        problem.cost(made)
    except ValueError as error:
        return Candidate(name, budget, reason=str(error))
    if not factors:
        settings = dict(list(settings.items())[:1])
    return Candidate(name, budget, settings)


def _best_of(draw: int, budget: int) -> BestOf:
    """As many draws as a budget allows, each of so many evaluations."""
    if budget < draw:
        raise ValueError(f"evaluations: expected at least {draw} for {_BEST_OF}, got {budget}")
    return BestOf(n=budget // draw)
