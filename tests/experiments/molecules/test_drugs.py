"""Scores of drug-like molecules: every row finds by its own means, and is told as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.elements import DRUG
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.rdkit_scores import parse_scores
from ctrlgen.domains.molecules.score_networks import ScoreNetwork
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, join
from ctrlgen.experiments.molecules import drug_rows, drugs
from ctrlgen.experiments.molecules.draws import best
from ctrlgen.experiments.molecules.drug_rows import Bench, drawn, guidance, renoising
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.rows.seeds import further
from tests.experiments.dflow.test_molecules import Still

rdkit = pytest.importorskip("rdkit.Chem.AllChem")
crippen, qed = (pytest.importorskip(f"rdkit.Chem.{name}") for name in ("Crippen", "QED"))

TEXTS = ("Clc1ccc(CN2CCNCC2)s1", "CC(C)Cc1ccc(cc1)C(C)C(N)=O", "CCCCCCCCCCCC")


def signals(texts: tuple[str, ...]) -> Tensor:
    """Of molecules by ETKDG and MMFF94, shape (B, 27, 16)."""
    mols = []
    for text in texts:
        mol = rdkit.AddHs(rdkit.MolFromSmiles(text))
        assert rdkit.EmbedMolecule(mol, randomSeed=1) == 0 and rdkit.MMFFOptimizeMolecule(mol) == 0
        mols.append(mol)
    positions, classes, _ = tensors(mols, "moses-heavy")
    found = join(positions, classes, len(DRUG))
    return torch.nn.functional.pad(found, (0, 0, 0, 27 - found.shape[1]))


def bench(wish: str, counts: list[int]) -> Bench:
    torch.manual_seed(0)
    guide = ScoreNetwork(
        ["qed", "logp"], 13, [0.8, 2.4], [0.1, 1.0], width=8, depth=1, pair=4, vectors=2, heads=2,
        bands=6,
    )  # fmt: skip
    prior = Prior(Flow(Still(), CondOT()), Atoms(27, 16), AtomCodec(2.3, 0.2))
    return Bench(
        prior, guide.eval().requires_grad_(False), parse_scores(wish), torch.tensor(counts), 4,
        (0.1, 1.0),
    )  # fmt: skip


def test_the_best_draw_is_whole_first_and_nearest_its_exact_scores() -> None:
    ring, amide, chain = signals(TEXTS)
    torn = chain.clone()
    torn[0, :3] += 9.0
    table = [torch.stack(pair) for pair in ((torn, chain), (ring, amide), (amide, amide))]
    about = bench("qed>=0.95,logp=1..2.7", [13, 15])
    number = {int(further(about.seeds, place)[0]): place for place in range(3)}
    draw = lambda seeds: table[number[int(seeds[0])]]  # noqa: E731
    found = best(draw, about.seeds, 3, about.standing)
    costs = about.standing(torch.stack((ring, amide, chain, torn)))
    assert float(costs[3]) > 3 > float(costs[:3].max())
    first = ring if float(costs[0]) <= float(costs[1]) else amide
    assert torch.equal(found[0], first) and torch.equal(found[1], amide)


def test_a_row_has_the_scores_that_rdkit_has_and_leaves_nobody_out() -> None:
    about = bench("qed>=0.95,logp=1..2.7", [13, 15, 12, 12])
    chain = signals(TEXTS)[2]
    torn = chain.clone()
    torn[0, :3] += 9.0
    row = drugs.measure(about, torch.cat((signals(TEXTS), torn[None])), {TEXTS[2]})
    assert row["valid"] == [True, True, True, False]
    assert row["novel"] == [True, True, False, False] and row["distinct"] == 3
    for place, text in enumerate(TEXTS):
        mol = rdkit.MolFromSmiles(text)
        away = [max(0.95 - qed.qed(mol), 0) / 0.1]
        logp = crippen.MolLogP(mol)
        away.append(max(1 - logp, logp - 2.7, 0))
        assert row["scores"]["logp"][place] == pytest.approx(logp)
        assert row["error"][place] == pytest.approx(math.hypot(*away))
        assert row["met"][place] == (math.hypot(*away) == 0)
    assert math.isnan(row["error"][3]) and not row["met"][3]


def test_every_way_takes_what_it_says(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    about = bench("logp<=1", [9, 12])
    alone = drawn(about)(about.seeds)
    assert alone.shape == (2, 27, 16) and bool(alone.isfinite().all())
    assert not alone[0, 9:].any() and alone[1, 11].any()
    found, account = guidance(about, 16)
    assert account["evaluations"] == 16 and "best of 2, strength" in account["settings"]
    assert found.shape == alone.shape and bool(found.isfinite().all())
    found, account = renoising(about, 400)
    # Of eight draws none is a molecule that has a score: nothing is drawn again.
    assert account["evaluations"] == 8 * 20 and found.shape == alone.shape

    rows = drugs.Rows(tmp_path / "rows", {})
    drugs.run(about, rows, drugs.METHODS, 16, None)
    assert [row["evaluations"] for row in list(rows.rows.values())[:3]] == [4, 16, 16]
    text = drugs.table({"wishes": {"logp<=1": {"share": 0.031, "rows": rows.rows}}})
    assert "## logp<=1, met by 3.1 % of the training set" in text
    assert text.count("\n| ") == 5 and "| unguided |" in text


def test_the_share_of_the_data() -> None:
    none = torch.zeros(4, 1, dtype=torch.int64)
    scores = {
        "qed": torch.tensor([0.5, 0.9, 0.95, 0.99]),
        "sa": torch.tensor([1.0, 1.0, 3.0, math.nan]),
    }
    data = Molecules(torch.zeros(4, 1, 3), none, none[:, 0], scores, none[:, 0])
    assert drugs.share(data, parse_scores("qed>=0.9")) == 0.75
    assert drugs.share(data, parse_scores("qed>=0.9,sa<=2")) == 0.25


def test_strengths_are_compared_on_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    about, seen = bench("logp<=1", [9, 9]), list[list[int]]()

    @dataclass(frozen=True)
    class Method:
        rho: float
        rule: Any = None
        grid: Any = None

        def __call__(self, prior: Any, cost: Any, *, seeds: Tensor) -> Any:
            seen.append(seeds.tolist())
            samples = torch.full((2, 9, 16), self.rho)
            return type("Found", (), {"samples": samples})

    monkeypatch.setattr(drug_rows, "denoised_guidance", lambda steps, strength: Method(strength))
    guidance(about, 16)
    tuning, kept = seen[:2], seen[2:]
    assert tuning[0] == tuning[1] and tuning[0] not in kept and len(kept) == 2
