r"""How unsure a property network is of a molecule: Bayesian linear regression on its last features.

A head is linear in what it reads, z(x) (hidden units of the atoms, summed, and of the pooled
orbitals), so the posterior of its weights given the molecules of its training is Gaussian, with a
covariance that needs no second network (Snoek et al. 2015, "Scalable Bayesian optimization using
deep neural networks"). With z standardised over D_b and C its covariance there,

    q(x) = z̃ᵀ (C + εI)⁻¹ z̃ / D,        u_p(x) = σ_p √(1 + κ_p q(x)),

u_p the half width of the interval that holds 68 % of the network's errors, q about one for what it
was trained on and growing with every direction that it has not seen. κ_p and σ_p, and the factor of
the 95 % interval, are fitted on the validation split: κ by the likelihood of Laplace's law, the
widths by the quantiles of the errors. u is differentiable in the molecule, as a guide is:

    C(x) = Σ_p (u_p(x)/MAD_p)²     over the properties that are asked for.

    python -m ctrlgen.domains.molecules.uncertainty qm9-heavy-guide --data data/qm9

fits it and measures it on the test split. It knows of molecules unlike QM9's, not of a network that
is wrong everywhere: coverage of generated molecules has to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ctrlgen.costs import Cost
from ctrlgen.domains.molecules.atom_counts import DEVIATION, sizes
from ctrlgen.domains.molecules.data import Molecules, read
from ctrlgen.domains.molecules.judges import regressor, regressor_card
from ctrlgen.domains.molecules.molecule_batches import fitted
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressors import PropertyNetwork, Types
from ctrlgen.domains.molecules.scoring import EVALUATOR, score
from ctrlgen.domains.molecules.splits import Split
from ctrlgen.domains.molecules.states import join, split
from ctrlgen.priors.prior import load
from ctrlgen.rows.constants import follow
from ctrlgen.runs.fingerprint import file_digest
from ctrlgen.runs.json_files import dumps, write_json

__all__ = ["HeadCovariance", "UncertaintyCost", "fit", "head_covariance"]

_RIDGE = 1e-3
_KAPPAS = torch.cat((torch.zeros(1), torch.logspace(-3, 2, 41)))
SCALE = torch.tensor([DEVIATION[name] for name in PROPERTIES])


@dataclass(frozen=True, eq=False)
class HeadCovariance:
    """What is known of the weights of a head.

    Attributes:
        mean, scale: of the features over the training molecules, shape (D,).
        whiten: (C + εI)^(-1/2)/√D, shape (D, D).
        sigma, kappa: of each property, shape (P,); σ in mean absolute deviations.
        wide: half width of the 95 % interval over that of 68 %, shape (P,).
    """

    mean: Tensor
    scale: Tensor
    whiten: Tensor
    sigma: Tensor
    kappa: Tensor
    wide: Tensor

    def distance(self, features: Tensor) -> Tensor:
        """q of features (B, D), shape (B,)."""
        own = (features - follow(self.mean, features)) / follow(self.scale, features)
        # row by row: a matrix product of few rows rounds as their number wants
        return (own.unsqueeze(1) * follow(self.whiten, features)).sum(2).square().sum(1)

    def widths(self, features: Tensor) -> Tensor:
        """Half widths u_p/MAD_p of the 68 % intervals, shape (B, P)."""
        q = self.distance(features).unsqueeze(1)
        return follow(self.sigma, q) * (1 + follow(self.kappa, q) * q).sqrt()

    def save(self, file: Path, sha256: str) -> None:
        """Write it, with the sha256 of the network's weights that it belongs to."""
        tensors = {name: value.contiguous() for name, value in vars(self).items()}
        save_file(tensors, file, metadata={"weights": sha256})


class UncertaintyCost(Cost):
    """How unsure a network is of the properties that matter, squared, in deviations of QM9.

    Args:
        features: of signals (B, N, 3 + K), shape (B, D), differentiable.
        covariance: of the head.
        columns: places of the properties in `PROPERTIES`, shape (P,), or of each sample (B, P).
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        covariance: HeadCovariance,
        columns: Sequence[int] | Tensor,
    ) -> None:
        self.columns = torch.as_tensor(columns, dtype=torch.int64)
        if not self.columns.numel() or self.columns.ndim > 2:
            raise ValueError("columns: expected at least one property, shape (P,) or (B, P)")
        self.features, self.covariance = features, covariance
        if self.columns.ndim == 2:
            self.per_sample = ("columns",)

    def forward(self, x: Tensor) -> Tensor:
        widths = self.covariance.widths(self.features(x))
        columns = follow(self.columns, widths).expand(len(widths), -1)
        return widths.gather(1, columns).square().sum(1)


def head_covariance(name: str, needed: bool = True) -> HeadCovariance | None:
    """That of a property network, beside its weights.

    Args:
        name: of an embedded network, or the path of a card.
        needed: whether it is an error that there is none; else None.

    Raises:
        ValueError: there is none, or it is of other weights.
    """
    file, sha256 = _place(name)
    if not file.is_file():
        if not needed:
            return None
        raise ValueError(
            f"uncertainty: {name} has no head covariance, expected {file}; make it by "
            f"python -m ctrlgen.domains.molecules.uncertainty {name} --data FOLDER"
        )
    with safe_open(file, framework="pt") as tensors:
        about = tensors.metadata() or {}
    if about.get("weights") != sha256:
        raise ValueError(f"uncertainty: {file} belongs to other weights than those of {name}")
    return HeadCovariance(**load_file(file))


def _place(name: str) -> tuple[Path, str]:
    card, folder = regressor_card(name, "guide")
    return folder / f"{card.name}.head.safetensors", card.sha256


def features_of(network: PropertyNetwork, types: Types) -> Callable[[Tensor], Tensor]:
    """What a network's heads read of signals (B, N, 3 + K), shape (B, D)."""
    return lambda signal: network.features(split(signal), types)


def read_out(network: PropertyNetwork, known: Molecules, count: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) of molecules spread over a split, and errors in deviations (N, P)."""
    order = torch.arange(len(known))[:: max(1, len(known) // count)][:count]
    order = order[torch.argsort(known.counts[order], stable=True)]
    rows, errors = [], []
    for part in order.split(128):
        places = int(known.counts[part].max())
        classes = known.classes[part, :places]
        own = split(join(known.positions[part, :places], classes, network.classes))
        with torch.no_grad():
            rows.append(network.features(own, "hard").double())
            values = network.of(own, "hard")
        wanted = torch.stack([known.properties[name][part] for name in PROPERTIES], 1)
        errors.append(((values - wanted) / SCALE).double())
    return torch.cat(rows), torch.cat(errors)


def fit(training: Tensor, features: Tensor, errors: Tensor) -> HeadCovariance:
    """The covariance of a head.

    Args:
        training: features of what the network was trained on, shape (N, D).
        features, errors: of the validation split, shapes (M, D) and (M, P).
    """
    mean, scale = training.mean(0), training.std(0).clamp_min(1e-6)
    own = (training - mean) / scale
    values, vectors = torch.linalg.eigh(own.T @ own / len(own))
    whiten = vectors @ torch.diag((values + _RIDGE).rsqrt()) @ vectors.T / own.shape[1] ** 0.5
    q = ((features - mean) / scale @ whiten).square().sum(1)
    size, kappas = errors.abs(), []
    for column in size.T:
        root = (1 + _KAPPAS.double()[:, None] * q).sqrt()
        # the width of Laplace's law that is likeliest for each κ, and what it then costs
        losses = (column / root).mean(1).log() + root.log().mean(1)
        kappas.append(_KAPPAS[losses.argmin()].double())
    kappa = torch.stack(kappas)
    told = size / (1 + kappa * q[:, None]).sqrt()
    sigma, far = told.quantile(torch.tensor([0.6827, 0.9545]).double(), dim=0)
    parts = (mean, scale, whiten, sigma, kappa, far / sigma)
    return HeadCovariance(*(part.float() for part in parts))


def measured(covariance: HeadCovariance, features: Tensor, errors: Tensor) -> dict[str, Any]:
    """Coverage of the intervals on a split, and how well widths order the errors, by property."""
    widths, told = covariance.widths(features.float()).double(), {}
    for place, name in enumerate(PROPERTIES):
        own, size = widths[:, place], errors[:, place].abs()
        ranks = torch.stack([v.argsort().argsort().double() for v in (own, size)])
        fifth = own >= own.quantile(0.8)
        told[name] = {
            "within 68 %": float((size <= own).double().mean()),
            "within 95 %": float((size <= own * covariance.wide[place]).double().mean()),
            "rank correlation": float(torch.corrcoef(ranks)[0, 1]),
            "error, least sure fifth": float(size[fifth].mean()),
            "error, others": float(size[~fifth].mean()),
            "kappa": float(covariance.kappa[place]),
        }
    return told


def main(
    name: Annotated[str, typer.Argument(help="of an embedded network, or a card")],
    data: Annotated[Path, typer.Option(help="folder of QM9")] = Path("data/qm9"),
    count: Annotated[int, typer.Option(help="molecules of each split, at most")] = 5000,
    generated: Annotated[int, typer.Option(help="draws that the evaluator judges, too")] = 0,
) -> None:
    """Fit the head covariance of a network, write it beside its weights, measure it, in a card."""
    torch.set_num_threads(1)
    network = regressor(name)
    alphabet = "qm9-heavy" if network.classes > 5 else "qm9"
    splits: tuple[Split, ...] = ("D_b", "valid", "test")
    parts = {each: read_out(network, read(alphabet, data, each), count) for each in splits}
    covariance = fit(parts["D_b"][0], *parts["valid"])
    file, sha256 = _place(name)
    covariance.save(file, sha256)
    told: dict[str, Any] = {
        "of": {"name": name, "sha256": sha256},
        "weights": {"name": file.name, "sha256": file_digest(file)},
        "data": "QM9: features of D_b, widths by the validation split, measured on the test split",
        "licence": "MIT",
        "command": f"python -m ctrlgen.domains.molecules.uncertainty {name} --data FOLDER "
        f"--count {count} --generated {generated}",
        "molecules of a split": count,
    }
    told["test"] = measured(covariance, *parts["test"])
    if generated:
        features, errors = _draws(network, alphabet, generated)
        told["generated"] = measured(covariance, features, errors)
        told["generated"]["valid"] = [len(errors), generated]
    card = file.parent / "quality" / f"{file.stem}.json"
    card.parent.mkdir(exist_ok=True)
    write_json(card, told)
    print(dumps(told))


def _draws(network: PropertyNetwork, alphabet: str, count: int) -> tuple[Tensor, Tensor]:
    """As `read_out`, of valid draws of the prior, for which the evaluator stands for the truth."""
    prior, seeds = load(alphabet), torch.arange(count)
    counts = sizes(alphabet).only(range(2, prior.source.shape[0] + 1)).draw([], seeds)
    bound = fitted(prior, counts)
    with torch.no_grad():
        signals = bound.generate(bound.start(seeds), prior.solver(10))
        told = score(signals, alphabet, guide=network, evaluator=regressor(EVALUATOR))
        features = features_of(network, "hard")(signals)
    errors = ((told.guide - told.evaluator) / SCALE).double()
    known = told.valid & errors.isfinite().all(1)
    return features[known].double(), errors[known]


if __name__ == "__main__":
    typer.run(main)
