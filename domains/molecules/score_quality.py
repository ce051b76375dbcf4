"""Measured quality of the guide of drug-like scores: errors on molecules that it never saw.

    python -m ctrlgen.domains.molecules.score_quality --data data/moses --guide CARD

Mean absolute errors of QED, logP, SA and, where it has one, the gap in meV, on the conformers of
MOSES's test split and on those whose scaffolds the training split lacks; beside each the mean
absolute deviation, the error of who always says the mean. The answer is written into the card.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor

from ctrlgen.domains.molecules import moses_data
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.quality import predicted
from ctrlgen.domains.molecules.regressors import Regressor
from ctrlgen.priors.cards import Card
from ctrlgen.priors.factories import network_of
from ctrlgen.runs.json_files import dumps

__all__ = ["errors", "measure"]


def errors(found: Tensor, data: Molecules, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """By score: mean absolute error and deviation over the molecules that have it.

    Args:
        found: predictions, shape (N, P).
        data: N molecules with the scores.
        names: of the P scores.
    """
    told = {}
    for place, name in enumerate(names):
        values = data.properties[name]
        known = values.isfinite()
        away = (found[known, place] - values[known]).abs().mean()
        spread = (values[known] - values[known].mean()).abs().mean()
        told[name] = {"error": round(float(away), 4), "deviation": round(float(spread), 4)}
    return told


def measure(network: Regressor, folder: Path) -> dict[str, Any]:
    """Errors on the two splits that the training left out."""
    content: dict[str, Any] = {}
    for split in ("test", "test_scaffolds"):
        data = moses_data.read(folder, split)
        found = predicted(network, data)
        content[split] = {"molecules": len(data), **errors(found, data, tuple(network.names))}
    return content


def main() -> None:
    """Command line: measure a guide and write the answer into its card."""
    parser = argparse.ArgumentParser(description="Quality of the guide of drug-like scores.")
    parser.add_argument("--data", type=Path, required=True, help="folder of MOSES, or packed")
    parser.add_argument("--guide", type=Path, required=True, help="card")
    options = parser.parse_args()
    card = Card.read(options.guide)
    network = network_of(card, options.guide.parent)
    if not isinstance(network, Regressor):
        parser.error(f"--guide: expected the card of a regressor, got {options.guide}")
    content = measure(network.eval(), options.data)
    said = ", ".join(f"{name} {row['error']}" for name, row in content["test"].items()
                     if isinstance(row, dict))  # fmt: skip
    command = "python -m ctrlgen.domains.molecules.score_quality --data FOLDER --guide CARD"
    summary = f"mean absolute errors on {content['test']['molecules']} molecules of test: {said}"
    card.quality = {"summary": summary, "command": command, **content}
    card.write(options.guide)
    print(dumps(content))


if __name__ == "__main__":
    main()
