"""Measured quality of drug-like molecules: of MOSES's own, the ceiling, and of a prior of them.

    python -m ctrlgen.domains.molecules.drug_quality --data data/moses --samples 300
    python -m ctrlgen.domains.molecules.drug_quality --data data/moses --prior runs/.../card.json

With `--churn` as many stochastic steps draw them, and stand in the card beside the others.
Both begin with heavy atoms, their hydrogens known but nowhere: bonds are perceived, hydrogens
placed, and the complete molecule is asked (`perception`, `chemistry`). Molecules of the data are
the first of a split; those of a prior come from seeds 0, 1, ..., their sizes from the histogram of
train by the same seeds. Shares are of all samples, in which a failure counts:

    stable             whole bond orders fit all valences (`kekule`)
    valid              RDKit sanitises it, one piece, no charge, no unpaired electron
    unique, novel      valid and the first of its SMILES, and of these not in MOSES's train
    posebusters        all checks passed, of the first molecules alone: they take seconds each
    own SMILES         of the data: what comes back is what MOSES wrote, else by kind what came

and strain is E(given) - E(minimum) by MMFF94s in kcal/mol, of all that have one.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ctrlgen.domains.molecules import chemistry, moses, moses_data
from ctrlgen.domains.molecules.molecule_batches import drawn, stepping
from ctrlgen.domains.molecules.perception import Names, perceive
from ctrlgen.domains.molecules.perception import name as name_of
from ctrlgen.domains.molecules.quality import draw_counts, record, rounded
from ctrlgen.domains.molecules.rdkit_scores import RDKitScore
from ctrlgen.domains.molecules.stability import stability
from ctrlgen.domains.molecules.states import split
from ctrlgen.extras import require
from ctrlgen.priors.cards import Card
from ctrlgen.priors.prior import Prior, load
from ctrlgen.runs.json_files import dumps, write_json
from ctrlgen.training.wheels import there

if TYPE_CHECKING:
    from rdkit.Chem import Mol

__all__ = ["draw", "measure", "plain_smiles", "training_smiles"]

_SCORES = ("qed", "logp", "sa")


def plain_smiles(names: Names) -> str | None:
    """SMILES without stereo marks, as MOSES writes them; None for what is not valid."""
    if not names.valid or names.charged or names.mol is None:
        return None
    chem = require("rdkit.Chem", "molecules")
    text: str = chem.MolToSmiles(chem.RemoveHs(names.mol), isomericSmiles=False)
    return text


def measure(
    positions: Tensor,
    classes: Tensor,
    known: set[str] | None = None,
    *,
    expected: Sequence[str] | None = None,
    busted: int = 0,
) -> dict[str, Any]:
    """What holds of heavy skeletons of the alphabet `moses-heavy`.

    Args:
        positions: (B, A, 3) in A.
        classes: (B, A), -1 on padding.
        known: SMILES that are not novel; None leaves novelty out.
        expected: SMILES that each should be; None for molecules that have none.
        busted: molecules, the first ones, of which PoseBusters' checks are made: seconds for each.
    """
    bare = perceive(positions, classes, "moses-heavy")
    whole = chemistry.place_hydrogens(bare)
    names = name_of(whole)
    texts = [plain_smiles(own) for own in names]
    total, distinct = len(texts), dict.fromkeys(text for text in texts if text is not None)
    table = stability(positions, classes, "moses-heavy")
    content: dict[str, Any] = {
        "samples": total,
        "stable": float(table.molecules.float().mean()),
        "connected": float(table.connected.float().mean()),
        "valid": sum(text is not None for text in texts) / total,
        "unique": len(distinct) / total,
    }
    if known is not None:
        content["novel"] = sum(text not in known for text in distinct) / total
    reasons = Counter(_reason(own) for own, text in zip(names, texts, strict=True) if text is None)
    content["reasons"] = dict(reasons.most_common())
    strain = np.array([relaxed.strain for relaxed in chemistry.relax(whole)])
    content["strain"] = _quartiles(strain)
    if busted:
        answers = chemistry.posebusters(whole[:busted])
        content["posebusters samples"] = len(answers)
        content["posebusters"] = sum(answer.passed is True for answer in answers) / len(answers)
        failed = Counter(k for a in answers for k, passed in a.checks.items() if passed is False)
        content["posebusters fails"] = dict(failed.most_common())
    content["scores"] = _scores([own.mol for own, t in zip(names, texts, strict=True) if t])
    if expected is not None:
        content |= _returned(names, texts, expected)
    return content


def _reason(names: Names) -> str:
    if names.reason:
        return "pieces" if "pieces" in names.reason else names.reason
    return "formal charges"


def _quartiles(values: np.ndarray) -> dict[str, float | int]:
    """Quartiles in kcal/mol, and how many there are not."""
    finite = values[np.isfinite(values)]
    told: dict[str, float | int] = {"unknown": len(values) - len(finite)}
    if len(finite):
        quartiles = np.quantile(finite, (0.25, 0.5, 0.75)).round(3).tolist()
        told |= dict(zip(("lower", "median", "upper"), quartiles, strict=True))
    return told


def _scores(mols: Sequence[Mol | None]) -> dict[str, float]:
    """Means of the scores of valid molecules."""
    means = {}
    for key in _SCORES:
        values = [value for value in RDKitScore(key)(mols) if value is not None]
        if values:
            means[key] = round(float(np.mean(values)), 3)
    return means


def _returned(
    names: Sequence[Names], texts: Sequence[str | None], expected: Sequence[str]
) -> dict[str, Any]:
    """How many molecules are what they were, and what the others have become."""
    chem = require("rdkit.Chem", "molecules")
    wanted = [chem.CanonSmiles(text) for text in expected]
    kinds = Counter[str]()
    for own, text, right in zip(names, texts, wanted, strict=True):
        if text != right:
            kinds["another molecule" if text else _reason(own)] += 1
    same = len(wanted) - sum(kinds.values())
    return {"own SMILES": same / len(wanted), "lost": dict(kinds.most_common())}


def draw(
    prior: Prior, counts: Tensor, steps: int, batch: int = 100, churn: float | None = None
) -> tuple[Tensor, Tensor]:
    """Positions (B, A, 3) and classes (B, A) of molecules of a prior, from seeds 0, 1, ...

    Args:
        prior: unconditional but for the numbers of atoms.
        counts: atoms of each, shape (B,).
        steps: midpoint steps, or stochastic ones.
        batch: molecules at a time.
        churn: λ of stochastic steps; None for those of the ODE.
    """
    signals = drawn(prior, counts, stepping(prior, steps, churn), batch).cpu()
    parts = split(signals)
    return parts.positions, parts.hard


def training_smiles(folder: Path) -> set[str] | None:
    """SMILES of MOSES's train, canonical for this RDKit; None where the wheel is not there."""
    return set(moses.smiles(folder, "train")) if there(moses.PACKAGE, folder) else None


def main() -> None:
    """Command line: measure MOSES's conformers or a prior; with a card, write into it."""
    parser = argparse.ArgumentParser(description="Quality of drug-like molecules.")
    parser.add_argument("--data", type=Path, required=True, help="folder of MOSES")
    parser.add_argument("--prior", type=Path, default=None, help="card; MOSES itself when none")
    parser.add_argument("--split", choices=tuple(moses.SPLITS), default="test", help="of MOSES")
    parser.add_argument("--samples", type=int, default=1000, help="molecules")
    parser.add_argument("--steps", type=int, default=50, help="of the prior")
    parser.add_argument("--churn", type=float, help="rate of noise; the midpoint rule if none")
    parser.add_argument("--device", default="cpu", help="of the prior")
    parser.add_argument(
        "--posebusters", type=int, default=100, help="molecules to check, where it is installed"
    )
    parser.add_argument("--out", type=Path, default=None, help="write the JSON there")
    options = parser.parse_args()
    for key in ("samples", "steps", "posebusters"):
        if getattr(options, key) < (key != "posebusters"):
            parser.error(f"--{key}: expected a positive number, got {getattr(options, key)}")
    if options.churn is not None and options.churn <= 0:
        parser.error(f"--churn: expected a positive number, got {options.churn:g}")
    busted = options.posebusters if importlib.util.find_spec("posebusters") else 0
    content: dict[str, Any] = {}
    if options.prior is None:
        data = moses_data.read(options.data, options.split)
        if len(data) < options.samples:
            parser.error(f"--samples: expected at most {len(data)}, the conformers of the split")
        data = data.take(torch.arange(options.samples))
        texts = moses.smiles(options.data, options.split)
        expected = [texts[row] for row in data.index.tolist()]
        content = {"data": f"MOSES, {options.split}"}
        content |= measure(data.positions, data.classes, expected=expected, busted=busted)
    else:
        prior = load(str(options.prior), device=options.device)
        counts = draw_counts("moses-heavy", range(options.samples))
        molecules = draw(prior, counts, options.steps, churn=options.churn)
        content = {"steps": options.steps}
        if options.churn is not None:
            content["churn"] = options.churn
        content |= measure(*molecules, training_smiles(options.data), busted=busted)
    content = rounded(content)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, content)
    if options.prior is not None:
        card = Card.read(options.prior)
        command = "python -m ctrlgen.domains.molecules.drug_quality --prior CARD --data FOLDER"
        command += f" --samples {options.samples} --steps {options.steps}"
        kind = "midpoint"
        if options.churn is not None:
            kind = "stochastic"
            command += f" --churn {options.churn:g}"
        command += f" --posebusters {busted}"
        summary = (
            f"{content['valid']:.1%} valid and in one piece, {content['unique']:.1%} unique, "
            f"median strain {content['strain'].get('median')} kcal/mol, of {options.samples} at "
            f"{options.steps} {kind} steps"
        )
        quality = {"summary": summary, "command": command, **content}
        record(card, quality, options.churn)
        card.write(options.prior)
    print(dumps(content))


if __name__ == "__main__":
    main()
