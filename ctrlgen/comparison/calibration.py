r"""How far samples are from the posterior, where it is known: Gaussian and mixture priors.

With the posterior's mean m and covariance C (`ctrlgen.testing.oracles`), of exact samples

    E[(x − m)ᵀ C⁻¹ (x − m)]/d = 1.

Less is too narrow (0 where every sample is the mean), more is too wide or beside it. One sample of
each of many problems is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ctrlgen.comparison.posed import Posed, Rows
from ctrlgen.operators.base import LinearOperator, dense
from ctrlgen.priors.codecs import Identity
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.batching import flat
from ctrlgen.testing.oracles import MixtureNetwork

__all__ = ["distance", "is_known"]

_LARGEST = 256


def is_known(prior: Prior, problem: Posed) -> bool:
    """Whether the posterior of these problems is known."""
    network = prior.flow.network
    return (
        isinstance(network, MixtureNetwork)
        and isinstance(prior.codec, Identity)
        and isinstance(problem.operator, LinearOperator)
        and problem.noise > 0
        and network.mixture.means.shape[1] <= _LARGEST
    )


def distance(prior: Prior, problem: Posed, samples: Tensor, rows: Rows) -> float:
    """Mean of the squared distance to the posterior's mean in its own measure, over d; 1 if exact.

    Args:
        prior: of a mixture.
        problem: all problems, with a linear operator and noise.
        samples: one per row.
        rows: which problem each belongs to.
    """
    network, operator = prior.flow.network, problem.operator
    assert isinstance(network, MixtureNetwork) and isinstance(operator, LinearOperator)
    mixture = network.mixture.to(torch.float64)
    x, total = flat(samples).double(), 0.0
    draws = x.reshape(len(rows.problems), rows.draws, -1)
    for place, p in enumerate(rows.problems):
        matrix = dense(operator, mixture.shape, row=p if operator.per_sample else 0)
        law = mixture.posterior(matrix, problem.y[p].double().reshape(-1), problem.noise)
        rest = draws[place] - law.mean
        solved = torch.linalg.solve(law.covariance, rest.mT).mT
        total += float((rest * solved).sum(1).mean()) / x.shape[1]
    return total / len(rows.problems)
