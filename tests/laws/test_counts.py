"""Three counts per sample, with one meaning each for every method."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from ctrlgen.methods.result import Result
from ctrlgen.optimizers.base import Event


def run(case: Any, problem: SimpleNamespace, observed: bool) -> Result:
    prior, cost = problem.prior(), problem.cost()

    def look(event: Event) -> None:
        """An observer that draws pictures on the way."""
        prior.sample(range(4), dtype=torch.float64)

    method = replace(case.method, dtype=torch.float64)
    before = prior.flow.evaluations.copy()
    result = method(prior, cost, seeds=problem.seeds, observer=look if observed else None)
    if not observed:  # the flow counts what the run counts
        assert prior.flow.evaluations - before == result.network
    return result


def test_counts_are_passes_through_the_network(
    method_case: Any, linear_problem: SimpleNamespace
) -> None:
    """Summed over the samples they are those of the run, and an observer adds nothing."""
    result = run(method_case, linear_problem, observed=False)
    assert int(result.evaluations.sum()) == result.network.forward_rows > 0
    assert int(result.backward_passes.sum()) == result.network.vjp_rows
    assert int(result.objective_calls.min()) >= 1
    watched = run(method_case, linear_problem, observed=True)
    for name in ("evaluations", "backward_passes", "objective_calls"):
        assert torch.equal(getattr(watched, name), getattr(result, name)), name
        if name in result.history:
            assert torch.equal(result.history[name][-1], getattr(result, name)), name
    assert watched.network == result.network
