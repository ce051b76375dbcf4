"""MOSES: the published files, conformers in shards, and their arrays."""

from __future__ import annotations

import gzip
import hashlib
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tiny_molecules import save_prior
from torch import Tensor

import ctrlgen as cg
from ctrlgen.domains.molecules import (
    chemistry_process,
    conformers,
    drug_quality,
    moses,
    moses_data,
    moses_gaps,
    score_quality,
    training,
)
from ctrlgen.domains.molecules.chemistry import Xtb
from ctrlgen.domains.molecules.elements import DRUG
from ctrlgen.domains.molecules.networks import build
from ctrlgen.domains.molecules.perception import Names
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.regressor_trainer import RegressorTrainer
from ctrlgen.domains.molecules.score_networks import ScoreNetwork
from ctrlgen.domains.molecules.scoring import Guide
from ctrlgen.domains.molecules.states import split
from ctrlgen.domains.molecules.subprocesses import HelperError
from ctrlgen.domains.molecules.trainer import PriorTrainer
from ctrlgen.priors.cards import Card
from ctrlgen.priors.factories import network_of
from ctrlgen.rows.errors import UnknownName
from ctrlgen.training.packed import write_packed

if TYPE_CHECKING:
    from rdkit.Chem import Mol

TEXTS = {
    "train": ["CCS(=O)(=O)c1ccsc1Br", "Cc1nc(Cl)no1", "C", "OCCF", "CCS"],
    "test": ["Nc1ccncc1", "no molecule"],
    "test_scaffolds": ["CC(=O)NC1CC1", "CC(=O)OC1CC1"],
}


class Direct:
    """A helper that answers in this process."""

    def __init__(self, timeout: float) -> None:
        assert timeout == 30

    def ask(self, task: str, **fields: object) -> dict[str, object]:
        return chemistry_process.TASKS[task]({"task": task, **fields})

    def close(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of a few molecules."""
    monkeypatch.setattr(conformers, "_HELD", 3)
    monkeypatch.setattr(conformers, "Helper", Direct)
    sums = {}
    with zipfile.ZipFile(tmp_path / "molsets-0.3.1-py3-none-any.whl", "w") as wheel:
        for split, texts in TEXTS.items():
            lines = "\n".join(["SMILES", *(text.replace(" ", "_") for text in texts), ""])
            content = gzip.compress(lines.encode(), mtime=0)
            sums[split] = hashlib.sha256(content).hexdigest()
            wheel.writestr(f"moses/dataset/data/{split}.csv.gz", content)
    monkeypatch.setattr(moses, "SPLITS", sums)
    return tmp_path


def test_a_subset_is_the_beginning_of_an_order_by_content() -> None:
    texts = [f"C{'C' * i}O" for i in range(40)]
    by_hand = sorted(range(40), key=lambda i: hashlib.sha256(texts[i].encode()).hexdigest())
    assert moses.order(texts).tolist() == by_hand
    mixed = texts[::-1]
    chem = pytest.importorskip("rdkit.Chem")
    for text in ("C[nH]Clc1cccnc1", "Brc1ccc2c(c1)OCS2(=O)=O", "CC(C)(C)[C@H]1CN(F)C1"):
        mol = chem.MolFromSmiles(text, sanitize=False)
        assert moses.heavy_atoms(text) == mol.GetNumAtoms()
    assert [mixed[i] for i in moses.order(mixed)] == [texts[i] for i in by_hand]


def test_another_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert moses.smiles(folder, "train") == TEXTS["train"]
    monkeypatch.setitem(moses.SPLITS, "test", "0" * 64)
    with pytest.raises(ValueError, match=r"test\.csv\.gz: expected sha256 000"):
        moses.smiles(folder, "test")
    with pytest.raises(ValueError, match="split: expected one of train, test"):
        moses.smiles(folder, "valid")
    with pytest.raises(FileNotFoundError, match=r"moses\.fetch"):
        moses.smiles(folder / "none", "train")


def test_shards_resume_whatever_was_done_and_pack_exactly(folder: Path, tmp_path: Path) -> None:
    lines = list[str]()
    with pytest.raises(ValueError, match="molecules: expected 1 to 5, got 6"):
        conformers.build(folder, 6)
    with pytest.raises(FileNotFoundError, match="conformers --data"):
        moses_data.read(folder, "train")
    # None is begun after no time at all; then three molecules of train, of shards of two.
    assert not conformers.build(folder, 3, minutes=0, size=2)
    conformers.build(folder, 3, size=2, say=lines.append)
    assert "molecules," in lines[-1] and "a second" in lines[-1]
    assert len(list(folder.glob("*.safetensors"))) == 4
    # A larger number goes on, and one that was lost comes back the same, from two workers.
    gone = moses_data.shard_of(folder, "train", 0)
    before = moses_data.read_shard(gone)
    gone.unlink()
    total = conformers.build(folder, 5, 2, size=2)
    again = moses_data.read_shard(gone)
    assert all(np.array_equal(again[key], array) for key, array in before.items())
    assert total == Counter({"done": 6, "no class": 2, "not read": 1})  # methane, a thiol, words

    train = moses_data.read(folder, "train")
    texts = [TEXTS["train"][row] for row in train.index.tolist()]
    order = [TEXTS["train"][row] for row in moses.order(TEXTS["train"])]
    assert texts == [text for text in order if text not in ("C", "CCS")]
    assert [len(DRUG), train.alphabet, len(train)] == [13, "moses-heavy", 3]
    row = texts.index("OCCF")
    assert [DRUG[c] for c in train.classes[row, :4]] == [("O", 1), ("C", 2), ("C", 2), ("F", 0)]
    assert train.positions[row, :4].sum(0).abs().max() < 1e-5
    gap = (train.positions[row, 0] - train.positions[row, 1]).norm()
    assert 1.38 < float(gap) < 1.46
    assert float(train.properties["logp"][row]) == pytest.approx(-0.04, abs=0.2)
    assert float(train.properties["qed"].min()) > 0 and bool(train.properties["gap"].isnan().all())

    packed = moses_data.pack_file(folder, tmp_path / "moses.packed")
    for part in TEXTS:
        one, other = moses_data.read(folder, part), moses_data.read(packed, part)
        assert torch.equal(one.positions, other.positions)
        assert torch.equal(one.classes, other.classes) and torch.equal(one.index, other.index)
        for key, values in one.properties.items():
            torch.testing.assert_close(values, other.properties[key], equal_nan=True)
    few = moses_data.read(moses_data.pack_file(folder, packed, samples=2), "train")
    assert torch.equal(few.positions, train.positions[:2])
    with pytest.raises(ValueError, match="samples: expected 1 to 3"):
        moses_data.pack_file(folder, packed, samples=4)


def test_positions_are_half_a_milliangstrom_off_at_most() -> None:
    draw = np.random.default_rng(0)
    places = [draw.normal(size=(n, 3)) * 4 for n in (9, 27, 2)]
    molecules = [{"classes": [0] * len(p), "positions": p.tolist()} for p in places]
    arrays = moses_data.assemble([4, 1, 2, 9], [0, 0, 2, 0], [*molecules[:2], {}, molecules[2]])
    found = moses_data.positions_of(arrays)
    exact = np.concatenate([p - p.mean(0) for p in places])
    # Half a step, and the centre of the rounded ones moved by no more.
    assert np.abs(found - exact).max() <= 1.01e-3 * moses_data.RESOLUTION / 1e-3
    assert np.sqrt(((found - exact) ** 2).mean()) < 0.35e-3
    assert arrays["counts"].tolist() == [9, 27, 0, 2]
    none = moses_data.assemble([1], [2], [{}])
    assert none["steps"].shape == (3, 0) and none["counts"].tolist() == [0]


def test_time_limits_and_crashes_have_a_name() -> None:
    class Failing:
        def __init__(self, reason: str) -> None:
            self.reason = reason

        def ask(self, task: str, **fields: object) -> dict[str, object]:
            raise HelperError(task, self.reason)

    for reason, status in (
        ("no answer within 30 s", "time limit"),
        ("the process crashed", "crashed"),
    ):
        number, told = conformers.conformer(Failing(reason), "CC")  # type: ignore[arg-type]
        assert moses_data.STATUSES[number] == status and told == {}


def test_gaps_are_labelled_once_and_failures_have_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match="conformers --data"):
        moses_gaps.label_all(folder, 3)
    told = {"classes": [3, 8], "positions": [[0, 0, 0], [1.4, 0, 0]], "scores": {}}
    for number in range(3):
        shard = moses_data.shard_of(folder, "train", number)
        arrays = moses_data.assemble([2 * number, 9], [0, 2], [told, {}])
        moses_data.write_shard(shard, arrays)
    moses_data.write_shard(moses_data.shard_of(folder, "test", 0), arrays)
    asked = []

    def xtb(mols: list[Any]) -> list[Xtb]:
        asked.append([mol.GetNumAtoms() for mol in mols])
        return [Xtb(gap=3210.4) if len(asked) < 3 else Xtb(error="crashed") for _ in mols]

    monkeypatch.setattr(moses_gaps.chemistry, "place_hydrogens", lambda mols: mols)
    monkeypatch.setattr(moses_gaps.chemistry, "xtb", xtb)
    lines = list[str]()
    assert moses_gaps.label_all(folder, 4, say=lines.append) == 2
    assert asked == [[2]] * 3 and "1 gaps, 1 without one" in lines[0]
    assert "0 gaps, 2 without one" in lines[2]
    assert moses_gaps.label_all(folder, 4) == 0 and len(asked) == 3  # all that were asked for
    gaps = moses_data.load(folder, "train")["gap"]
    assert gaps.tolist() == [3210, *[moses_data.UNKNOWN] * 5]


# ------------------------------------------------------------------ what is trained on them

TINY = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}


@pytest.fixture
def packed_data(folder: Path) -> Path:
    """Chains of two to five atoms, two thirds of them with a gap, as a packed file."""
    draw = np.random.default_rng(0)
    for part in moses.SPLITS:
        sizes = draw.integers(2, 6, 12)
        told = [
            {
                "classes": [2, 5, 7, 10, 9][:n],
                "positions": (1.4 * np.eye(3)[np.arange(n) % 3].cumsum(0)).tolist(),
                "scores": {"qed": n / 10, "logp": n - 3.0, "sa": 2 + n / 9},
            }
            for n in sizes.tolist()
        ]  # fmt: skip
        shard = moses_data.shard_of(folder, part, 0)
        moses_data.write_shard(shard, moses_data.assemble(range(12), [0] * 12, told))
        gaps = np.array([3000 + 100 * n for n in sizes[:8]], np.int16)
        write_packed(moses_data.gaps_of(shard), "moses-gaps", {"gap": gaps})
    return moses_data.pack_file(folder, folder / "moses.packed")


def test_the_recipes_train_on_a_packed_file(
    packed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the prior and of its guide, from the file to the card and back."""
    monkeypatch.chdir(tmp_path)
    options = {**training.RECIPES["moses-heavy"].config, "scale": 0.2, "frequencies": [1 / 13] * 13}
    with torch.device("meta"):
        whole = build(**options)  # in half precision at most ten megabytes of the package
    assert 2 * sum(part.numel() for part in whole.parameters()) < 10e6
    for name, changes in (("moses-heavy", {"network": "geot"}), ("moses-heavy-guide", {})):
        small = {**changes, "classes": 13, **TINY}
        recipe = replace(training.RECIPES[name], config=small, batch=3, places=(5, 27))
        monkeypatch.setitem(training.RECIPES, name, recipe)
    monkeypatch.setattr(PriorTrainer, "samples", 2)
    card = training.train("moses-heavy", data=packed_data, steps=1, out="out")
    assert Card.read(card).data.startswith("MOSES (Polykovskiy et al. 2020; molsets 0.3.1), 12 mol")
    prior = cg.load(str(card))
    signal = prior.bind(counts=[5, 3]).sample([0, 1], prior.solver(2))
    assert signal.shape == (2, 27, 16) and bool(signal.isfinite().all())
    assert split(signal).counts.tolist() == [5, 3]

    guide = network_of(
        Card.read(training.train("moses-heavy-guide", data=packed_data, steps=1, out="guide")),
        tmp_path / "guide",
    ).eval()
    assert isinstance(guide, ScoreNetwork) and guide.names == ("qed", "logp", "sa", "gap")
    cost = cg.PropertyCost(Guide(guide, ["qed"]), 0.8, 1.0)
    signal = signal.requires_grad_()
    (slope,) = torch.autograd.grad(cost(signal).sum(), signal)
    assert bool(slope.isfinite().all()) and bool(slope[..., :3].any())
    with pytest.raises(ValueError, match="names: expected some of qed, logp, sa, gap, got"):
        Guide(guide, ["mu"])


def test_what_has_no_weights_says_how_to_make_them() -> None:
    text = "prior: 'cifar10-large' is not known; known are: .*ctrlgen train images/cifar10-large"
    with pytest.raises(UnknownName, match=text):
        cg.load("cifar10-large")
    with pytest.raises(FileNotFoundError, match="conformers --data"):
        training.train("moses-heavy", data="nowhere", steps=1)


def test_molecules_without_a_label_teach_nothing_of_it(packed_data: Path) -> None:
    config = {"classes": 13, "names": ["qed", "gap"], **TINY}
    recipe = replace(
        training.RECIPES["moses-heavy-guide"], config=config, batch=12, places=(27,),
        jitter=0, soften=0,
    )  # fmt: skip
    train = moses_data.read(packed_data, "train")
    targets = torch.stack([train.properties[name] for name in ("qed", "gap")], 1)
    assert int(targets[:, 1].isnan().sum()) == 4
    group = training.group_of(train)
    scale = ([0.4, 3400.0], [0.1, 100.0])
    made = RegressorTrainer(recipe, group, targets, group, targets, *scale)
    draw = torch.Generator().manual_seed(0)
    loss, rows = float(made.loss(draw).detach()), made.batches(0)[1]
    values = made.network.eval()(*(made.disturbed(group, draw)), group.classes >= 0)
    missed = ((values - targets) / torch.tensor(scale[1])).abs()
    assert loss == pytest.approx(float(missed.detach().nanmean()), rel=1e-2) and len(rows) == 12
    assert bool(made.errors(group, targets).isfinite().all())
    # Counts alone tell both: the baseline is least squares of those that have a label.
    for part in made.average.parameters():
        part.detach().zero_()
    assert float((made.errors(group, targets) / torch.tensor(scale[1])).max()) < 0.01
    with pytest.raises(ValueError, match="names: expected some of qed, logp, sa, gap, got"):
        ScoreNetwork(["mu"], 13, [0.0], [1.0], **TINY)


# ------------------------------------------------------------------ how good they are


def test_a_guide_is_measured_on_what_it_never_saw_into_its_card(
    packed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = moses_data.read(packed_data, "train")
    names = ("qed", "gap")
    values = torch.stack([data.properties[name] for name in names], 1)
    told = score_quality.errors(values + torch.tensor([0.01, 5.0]), data, names)
    for place, name in enumerate(names):  # four molecules have no gap
        known = values[:, place][values[:, place].isfinite()]
        assert told[name]["error"] == pytest.approx([0.01, 5.0][place], abs=1e-3)
        spread = float((known - known.mean()).abs().mean())
        assert told[name]["deviation"] == pytest.approx(spread, abs=1e-3)
    small = {"classes": 13, **TINY}
    recipe = replace(training.RECIPES["moses-heavy-guide"], config=small, batch=3, places=(5, 27))
    monkeypatch.setitem(training.RECIPES, "moses-heavy-guide", recipe)
    monkeypatch.chdir(tmp_path)
    card = training.train("moses-heavy-guide", data=packed_data, steps=1, out="guide")
    words = ["x", "--data", str(packed_data), "--guide", str(card)]
    monkeypatch.setattr(sys, "argv", words)
    score_quality.main()
    quality = Card.read(card).quality
    assert quality["summary"].startswith("mean absolute errors on ") and "qed" in quality["test"]


def test_every_sample_counts_and_what_is_lost_has_its_kind(
    molecule: Callable[[str], Mol],
) -> None:
    texts = ["CNS(=O)(=O)c1ccsc1", "Cc1nc(Cl)no1", "CC(=O)NC1CC1", "CC(=O)NC1CC1"]
    positions, classes, _ = tensors([molecule(text) for text in texts], "moses-heavy")
    positions[1, 0] += 9  # a methyl group far away
    found = drug_quality.measure(positions, classes, {texts[2]}, expected=texts)
    assert [found[k] for k in ("samples", "stable", "valid", "own SMILES")] == [4, 0.75, 0.75, 0.75]
    assert found["unique"] == 0.5 and found["novel"] == 0.25 and found["connected"] == 0.75
    assert found["reasons"] == found["lost"] == {"pieces": 1}
    assert 0 <= found["strain"]["median"] < 3 and found["scores"]["sa"] > 1
    assert "posebusters" not in found
    # The wrong expectation is another molecule, and none of the shares changes.
    other = drug_quality._returned([Names(smiles="CC")], ["CC"], ["CCO"])
    assert other == {"own SMILES": 0.0, "lost": {"another molecule": 1}}
    assert drug_quality.plain_smiles(Names(smiles="C[O-]", charged=1, mol=molecule("C"))) is None


def test_a_prior_is_measured_with_the_sizes_of_the_data_into_its_card(
    packed_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    counts = moses_data.read(packed_data, "train").counts
    card = save_prior(tmp_path / "card", 13, 27)
    prior = cg.load(str(card))
    whole = drug_quality.draw(prior, counts[:3], 1)
    for one, other in zip(whole, drug_quality.draw(prior, counts[:3], 1, batch=2), strict=True):
        torch.testing.assert_close(one, other)
    noisy = drug_quality.draw(prior, counts[:3], 2, churn=2.0)
    assert noisy[0].isfinite().all() and not noisy[0].allclose(whole[0])

    def measure(positions: Tensor, classes: Tensor, known: object, *, busted: int) -> Any:
        assert known is None and positions.shape == (2, 27, 3)  # the wheel is not in a file
        return {"valid": 0.5, "unique": 0.5, "strain": {"median": 7.0}}

    monkeypatch.setattr(drug_quality, "measure", measure)
    words = [
        "x",
        "--data",
        str(packed_data),
        "--prior",
        str(card),
        "--samples",
        "2",
        "--steps",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", words)
    drug_quality.main()
    told = Card.read(card).quality
    assert told["summary"].startswith("50.0% valid and in one piece") and told["steps"] == 1
    assert "churn" not in told
    monkeypatch.setattr(sys, "argv", [*words, "--churn", "2"])
    drug_quality.main()
    assert Card.read(card).quality["summary"] == told["summary"]
    told = Card.read(card).quality["stochastic"]
    assert told["churn"] == 2.0 and told["summary"].endswith("of 2 at 1 stochastic steps")
    assert "--steps 1 --churn 2 --posebusters" in told["command"]
    assert '"valid": 0.5' in capsys.readouterr().out
    with pytest.raises(SystemExit):  # of the data itself, no more than there are
        monkeypatch.setattr(sys, "argv", ["x", "--data", str(packed_data), "--samples", "99"])
        drug_quality.main()
    with pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "argv", ["x", "--data", str(packed_data), "--posebusters", "-1"])
        drug_quality.main()
    assert "--posebusters: expected a positive number, got -1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        monkeypatch.setattr(sys, "argv", [*words, "--churn", "0"])
        drug_quality.main()
    assert "--churn: expected a positive number, got 0" in capsys.readouterr().err
