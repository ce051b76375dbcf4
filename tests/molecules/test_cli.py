"""`ctrlgen molecule`: what it writes, and what it refuses; tiny random networks kept as cards."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save
from torch import nn

from ctrlgen.commands.console import screen, stdout
from ctrlgen.commands.main import main
from ctrlgen.domains.molecules import design as designs
from ctrlgen.domains.molecules import generation, judges
from ctrlgen.domains.molecules.atom_counts import DEVIATION
from ctrlgen.domains.molecules.composition import parse_formula, possible_sizes
from ctrlgen.domains.molecules.design import Designer, design
from ctrlgen.domains.molecules.files import read_csv
from ctrlgen.domains.molecules.inputs import wish_of
from ctrlgen.domains.molecules.networks import MoleculeVelocity, build
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.rdkit import tensors
from ctrlgen.domains.molecules.regressors import PropertyNetwork
from ctrlgen.domains.molecules.regressors import build as build_regressor
from ctrlgen.domains.molecules.requirements import Wish, parse_atoms, parse_extreme
from ctrlgen.domains.molecules.result_tables import interval_text
from ctrlgen.domains.molecules.scoring import score
from ctrlgen.domains.molecules.sdf import read_sdf, write_sdf
from ctrlgen.domains.molecules.settings import Settings
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, join, split
from ctrlgen.domains.molecules.verdicts import outside, verdicts
from ctrlgen.domains.molecules.xyz import write_xyz
from ctrlgen.priors.cards import Card
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.runs.interrupts import Terminated

rdkit = pytest.importorskip("rdkit")

SHAPE = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}


class Outcome(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def ctrlgen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """`ctrlgen("molecule", ...)` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for console in (stdout, screen):
        monkeypatch.setattr(console, "width", 160)

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["molecule", *(str(word) for word in words)])
        captured = capsys.readouterr()
        code = stop.value.code
        return Outcome(0 if code is None else int(code), captured.out, captured.err)

    return run


def awake(network: nn.Module, std: float) -> nn.Module:
    for parameter in network.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=std)
    return network


def save_prior(folder: Path, kinds: int, places: int) -> Path:
    torch.manual_seed(0)
    config = {
        "network": "geot", "classes": kinds, "scale": 0.2, "frequencies": [1 / kinds] * kinds,
        **SHAPE,
    }  # fmt: skip
    network = awake(build(**config), 0.2)
    prior = Prior(Flow(network, CondOT()), Atoms(places, 3 + kinds), AtomCodec())
    return prior.save(
        folder,
        f"tiny{kinds}",
        factory="ctrlgen.domains.molecules.networks:build",
        config=config,
        domain="molecules",
        conditions={"counts": {"least": 2, "most": places}},
    )


def save_regressor(folder: Path, name: str, kinds: int, seed: int) -> Path:
    torch.manual_seed(seed)
    config = {
        "classes": kinds,
        "mean": [75.0, 6800.0, -6500.0, 300.0, 2.7, 32.0],
        "deviation": list(DEVIATION.values()),
        "baseline": [[0.1] * kinds + [-0.5]] * 4,
        **SHAPE,
    }
    network = awake(build_regressor(**config), 0.3)
    payload = save({k: v.contiguous() for k, v in network.state_dict().items()})
    (folder / f"{name}.safetensors").write_bytes(payload)
    card = Card(
        name=name, domain="molecules", factory="ctrlgen.domains.molecules.regressors:build",
        config=config, path={}, prediction="", source={}, weights=f"{name}.safetensors",
        sha256=hashlib.sha256(payload).hexdigest(),
    )  # fmt: skip
    card.write(folder / f"{name}.json")
    return folder / f"{name}.json"


class Cards(NamedTuple):
    """Paths of tiny cards: a heavy-atom prior with its guide, an evaluator, an all-atom prior."""

    prior: Path
    guide: Path
    evaluator: Path
    whole: Path

    @property
    def options(self) -> list[object]:
        return [
            "--prior", self.prior, "--guide", self.guide, "--evaluator", self.evaluator,
            "--steps", 2, "--evaluations", 2, "--restarts", 0,
        ]  # fmt: skip


@pytest.fixture(scope="session")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Cards:
    folder = tmp_path_factory.mktemp("cards")
    return Cards(
        save_prior(folder, 14, 9),
        save_regressor(folder, "guide", 14, 1),
        save_regressor(folder, "evaluator", 5, 2),
        save_prior(folder, 5, 29),
    )


def solved(ctrlgen: Command, *words: object) -> dict[str, Any]:
    outcome = ctrlgen(*words, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_generate_writes_sdf_xyz_csv_json_and_figure(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    content = solved(
        ctrlgen, "generate", "-p", "gap=6.8eV", "--element", "N<=2", "--atoms", "5..7",
        "-n", 3, "-o", "out.sdf", *cards.options, "--batch", 2,
    )  # fmt: skip
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"out.sdf", "out.xyz", "out.csv", "out.json", "out.png", "out.html"}
    on_disk = json.loads((tmp_path / "out.json").read_text())
    assert {k: v for k, v in content.items() if k != "file"} == on_disk
    assert content["complete"] and content["missing"] == []
    assert content["asked"] == ["gap = 6800 meV", "N <= 2"]
    rows = read_csv(tmp_path / "out.csv")
    entries = read_sdf(tmp_path / "out.sdf")
    assert [row["name"] for row in rows] == ["seed-0", "seed-1", "seed-2"]
    guide, prior = judges.regressor(str(cards.guide)), cards.prior
    for row, entry, known in zip(rows, entries, content["molecules"], strict=True):
        assert row["target gap (meV)"] == "6800" and entry.tags["target gap (meV)"] == "6800"
        assert 5 <= int(row["atoms of the prior"]) <= 7
        for table in ("D_b", "QM9"):
            assert (row[f"novel ({table})"] in ("true", "false")) == bool(row["inchikey"])
        assert row["stable (EDM)"] in ("true", "false") and row["composition"] in ("true", "false")
        assert row["valid"] == "true" or row["reason"]
        if row["valid"] == "false":
            assert row["satisfied (guide)"] == row["satisfied (evaluator)"] == "false"
        assert int(row["evaluations"]) >= 2 and row["starts"] == "1"
        value = known["evaluator gap (meV)"]
        if value is not None:
            assert known["error gap (meV)"] == pytest.approx(abs(value - 6800))
        assert (entry.mol is not None) == (row["atoms"] != "")
    # the guide's column is the guide's value of the molecule, hard classes, in a separate pass
    designer = Designer(
        wish_of(["gap=6.8eV"], elements=["N<=2"]), str(prior), atoms="5..7",
        guide=str(cards.guide), evaluator=str(cards.evaluator),
    )  # fmt: skip
    settings = Settings(steps=2, evaluations=2, restarts=0, batch=3)
    again = designer.run(designer.task(), designer.sheet([0, 1, 2]), settings)
    parts = split(again.found.signals)
    values = guide.of(parts, "hard")[:, list(PROPERTIES).index("gap")]
    for value, row in zip(values.tolist(), content["molecules"], strict=True):
        assert row["guide gap (meV)"] == pytest.approx(value, abs=1.0)  # other batches, same rows


def test_generate_shows_a_table(ctrlgen: Command, cards: Cards) -> None:
    outcome = ctrlgen("generate", "-p", "gap>=6eV", "-n", 1, "-o", "out.sdf", *cards.options)
    assert outcome.code == 0, outcome.err
    assert "gap wanted" in outcome.out and ">=6000" in outcome.out and "out.sdf" in outcome.out
    refused = ctrlgen("generate", "-p", "gap>=6eV", "-n", 1, "-o", "out.sdf", *cards.options)
    assert refused.code == 2 and "exists; name another file or add --overwrite" in refused.err


def test_an_interrupted_run_leaves_what_is_done_and_names_the_rest(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], generation.steer

    def stopping(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(generation, "steer", stopping)
    outcome = ctrlgen(
        "generate", "-p", "gap=6.8eV", "-n", 6, "--atoms", "4", "-o", "out.sdf",
        *cards.options, "--batch", 2,
    )  # fmt: skip
    assert outcome.code == 130, outcome.err
    rows, entries = read_csv(tmp_path / "out.csv"), read_sdf(tmp_path / "out.sdf")
    assert [row["name"] for row in rows] == ["seed-0", "seed-1", "seed-2", "seed-3"]
    assert len(entries) == 4
    told = " ".join(outcome.err.split())
    assert "4 of 6 molecules are in out.sdf" in told and "missing seeds: 4, 5" in told
    content = json.loads((tmp_path / "out.json").read_text())
    assert not content["complete"] and content["missing"] == [4, 5]


def ethanol(folder: Path) -> Path:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return write_sdf(folder / "ethanol.sdf", [mol])


def test_optimize_keeps_the_size_and_the_ball(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    content = solved(
        ctrlgen, "optimize", lead, "-p", "mu=2D", "-n", 2, "--radius", 0.2, "-o", "better.sdf",
        *cards.options,
    )  # fmt: skip
    assert [row["atoms of the prior"] for row in content["molecules"]] == [3, 3]
    assert "xtb mu (D)" in content["molecules"][0]
    assert content["lead"]["smiles"] == "CCO" and content["lead"]["guide mu (D)"] > 0
    designer = Designer(
        wish_of(["mu=2D"]), str(cards.prior), guide=str(cards.guide),
        evaluator=str(cards.evaluator),
    )  # fmt: skip
    settings = Settings(steps=2, iterations=4, tolerance=1e-3, restarts=0)
    task = designer.lead_task(read_sdf(lead)[0].mol, 0.2, settings)
    rows, seeds = torch.arange(2), torch.tensor([0, 1])
    counts = task.counts(rows, seeds)
    assert task.start is not None and counts.tolist() == [3, 3]
    _, ball = task.start(rows, seeds, counts)
    assert ball.radius.tolist() == pytest.approx([0.2 * math.sqrt(2 * (3 * 17 - 3))] * 2)
    found = designer.run(task, designer.sheet([0, 1]), settings).found
    assert (ball.distance(found.controls) <= ball.radius * (1 + 1e-5)).all()


def test_a_fragment_an_extreme_and_a_likeness_are_one_cost(cards: Cards, tmp_path: Path) -> None:
    wish = wish_of(
        ["mu<=2D"], ["gap=2"], ["gap"], fragment=ethanol(tmp_path), similar=ethanol(tmp_path)
    )
    designer = Designer(
        wish, str(cards.prior), atoms="3..5", guide=str(cards.guide),
        evaluator=str(cards.evaluator),
    )  # fmt: skip
    counts = torch.tensor([3, 5])
    signal = designer.prior.bind(counts=counts).sample([0, 1])
    cost = wish.cost(designer.guide, designer.name, counts)
    value = cost(signal)
    assert value.shape == (2,) and bool(value.isfinite().all())
    alone = wish.cost(designer.guide, designer.name, counts[1:])(signal[1:])
    assert torch.allclose(cost.take(torch.tensor([1]))(signal[1:]), value[1:])
    assert torch.allclose(alone, value[1:])
    limits = wish.intervals("qm9-heavy", counts)["gap"][0]
    assert limits[0] > 9000  # of small molecules


def test_a_molecule_without_the_fragment_is_not_done(cards: Cards, tmp_path: Path) -> None:
    """Where nothing but a fragment is asked, a whole molecule without it starts again."""
    wish = wish_of(None, fragment=ethanol(tmp_path))
    counts = torch.tensor([3, 3, 3])
    positions, classes, _ = tensors([read_sdf(tmp_path / "ethanol.sdf")[0].mol], "qm9-heavy")
    own = join(positions, classes, 14)
    bent, other = own.clone(), own.clone()
    bent[0, 0, :3] += 1.0
    other[0, 2, 3:] = own[0, 0, 3:]  # a carbon for the oxygen
    aim = wish.aim(None, "qm9-heavy", counts)
    assert aim is not None and aim(torch.cat((own, bent, other))).tolist() == [0, 1, 1]
    assert Designer(wish, str(cards.prior)).task().aim is not None
    both = wish_of(["mu=2D"], fragment=ethanol(tmp_path))
    guide = judges.regressor(str(cards.guide))
    alone = wish_of(["mu=2D"]).cost(guide, "qm9-heavy", counts[:1])(bent)
    aim = both.aim(guide, "qm9-heavy", counts[:1])
    assert aim is not None and torch.allclose(aim(bent), alone + 1)


def test_in_python_it_takes_three_lines(cards: Cards) -> None:
    designed = design(
        "gap=6.8eV", number=2, prior=str(cards.prior), guide=str(cards.guide),
        evaluator=str(cards.evaluator), settings=Settings(steps=2, iterations=1), atoms="4",
    )  # fmt: skip
    assert len(designed.mols) == len(designed.rows) == 2
    assert designed.network.forward > 0
    assert repr(designed).startswith("Designed(2 molecules, ") and "\n" not in repr(designed)
    assert len(repr(designed.sheet)) < 80 and "2 of 2 rows" in repr(designed.sheet)


def test_a_user_ranks_the_starts(cards: Cards, tmp_path: Path, ctrlgen: Command) -> None:
    (tmp_path / "mine.py").write_text(
        "def heaviest(mols):\n    return [None if m is None else -m.GetNumAtoms() for m in mols]\n"
    )
    words = ["generate", "-p", "gap=6.8eV", "-n", 1, *cards.options[:-1], 1]
    content = solved(ctrlgen, *words, "--rank", "mine.py:heaviest", "-o", "out.sdf")
    assert content["molecules"][0]["starts"] == 2
    refused = ctrlgen(*words, "--rank", "mine.py:lightest", "-o", "other.sdf")
    assert refused.code == 2 and "rank: mine.py has no function 'lightest'" in refused.err


def test_the_options_of_a_run_are_its_settings(ctrlgen: Command, cards: Cards) -> None:
    words = ["-p", "gap=6.8eV", "-n", 1, *cards.options, "--valence", 0.5, "--tolerance", 0.2]
    begins = ["--draws", 3, "--normalise", "isotropic", "--atoms", "4"]
    content = solved(ctrlgen, "generate", *words, *begins, "-o", "out.sdf")
    wanted = {
        "steps": 2, "evaluations": 2, "restarts": 0, "valence": 0.5, "tolerance": 0.2,
        "draws": 3, "normalise": "isotropic",
    }  # fmt: skip
    assert {key: content["settings"][key] for key in wanted} == wanted
    # three draws and at most two calls more; of four midpoint evaluations each
    molecule = content["molecules"][0]
    assert 3 < molecule["objective calls"] <= 5
    assert molecule["backward passes"] == 4 * (molecule["objective calls"] - 3)
    assert content["network"]["forward_rows"] == molecule["evaluations"]
    assert molecule["evaluations"] == 4 * molecule["objective calls"]


def test_sample_draws_and_score_says_the_same_of_the_file(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    told = solved(
        ctrlgen, "score", lead, "--evaluator", cards.evaluator, "--posebusters", "-o", "told.sdf"
    )
    (row,) = told["molecules"]
    assert row["posebusters"] and row["posebusters fails"] is None
    assert 0 <= row["strain (kcal/mol)"] < 30 and 0 <= row["MMFF rmsd (A)"] < 0.5
    assert told["summary"]["posebusters"] == 1 and told["summary"]["without strain"] == 0
    assert told["summary"]["median strain (kcal/mol)"] == row["strain (kcal/mol)"]
    assert row["smiles"] == "CCO" and row["formula"] == "C2H6O" and row["record"] == 1
    assert row["stable (EDM)"] and row["valid"] and row["pieces"] == 1 and row["atoms"] == 9
    assert row["novel (QM9)"] is False and "satisfied (guide)" not in row
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 2]
    drawn = solved(ctrlgen, "sample", "-n", 2, "--atoms", "3", *words, "-o", "out.sdf")
    assert [r["atoms of the prior"] for r in drawn["molecules"]] == [3, 3]
    assert drawn["network"]["forward"] == 4 and drawn["complete"]
    assert "2 molecules with tiny14" in ctrlgen(
        "sample", "-n", 2, "--atoms", "3", *words, "-o", "out.sdf", "--overwrite"
    ).out  # fmt: skip


def test_properties_are_listed_with_units_and_ranges(ctrlgen: Command) -> None:
    found = json.loads(ctrlgen("properties", "--json").out)
    assert [p["name"] for p in found] == list(PROPERTIES)
    assert all(p["low"] < p["high"] and p["unit"] in p["units"] for p in found)
    assert "polarizability" in ctrlgen("properties").out


# ------------------------------------------------------------------ bad input


@pytest.fixture
def refused(
    ctrlgen: Command, cards: Cards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., str]:
    """The message of a command that must fail before any network is evaluated."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a network was evaluated")

    monkeypatch.setattr(MoleculeVelocity, "forward", never)
    monkeypatch.setattr(PropertyNetwork, "forward", never)

    def run(*words: object, prior: Path | None = None) -> str:
        options = list(cards.options)
        if prior is not None:
            options[1] = prior
        outcome = ctrlgen(*words, "-o", "out.sdf", *options)
        assert outcome.code == 2, (outcome.out, outcome.err)
        lines = outcome.err.strip().splitlines()
        assert lines[-1].startswith("error ") and "Traceback" not in outcome.err
        assert not (tmp_path / "out.sdf").exists()
        return lines[-1]

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "colour=3eV"], "property: expected one of alpha, gap"),
        (["-p", "gap=6.8"], "gap: expected a unit"),
        (["-p", "gap=6.8D"], "unit of gap: expected one of meV"),
        (["-p", "gap=7..6eV"], "expected low <= high"),
        (["-p", "gap=6eV", "-p", "gap>=5eV"], "expected each once, got gap twice"),
        (["-p", "gap=60eV"], "mean absolute deviations outside"),
        ([], "nothing is asked for"),
        (["-p", "gap=6.8eV", "--atoms", "30"], "atoms: expected 2 to 9 heavy atoms"),
        (["-p", "gap=6.8eV", "--atoms", "many"], "atoms: expected N or LOW..HIGH"),
        (["--element", "S<=1"], "error element: expected elements H, C, N, O, F, got S"),
        (["--formula", "C6H6Cl"], "error formula: expected elements H, C, N, O, F, got Cl"),
        (["--element", "N<=2", "--formula", "CH4"], "--formula says everything"),
        (["--element", "N<=1", "--element", "N>=2"], "limits on N contradict"),
        (["-p", "gap=6.8eV", "--weight", "mu=2"], "weight: 'mu' is not among"),
        (["-p", "gap=6.8eV", "--weight", "gap"], "weight: expected NAME=NUMBER"),
        (["--maximise", "gap>=9eV"], "gap: expected one trust limit"),
        (["-p", "gap=6.8eV", "--normalise", "paper"], "normalise: expected one of"),
        (["-p", "gap=6.8eV", "--tolerance", "0"], "tolerance: expected a positive"),
        (["-p", "gap=6.8eV", "--seeds", "1,1"], "seeds: expected integers >= 0, each once"),
        (["-p", "gap=6.8eV", "--device", "abacus"], "device: 'abacus'"),
        (["-p", "gap=6.8eV", "--rank", "none.py:f"], "rank: expected FILE.py:NAME"),
        (["-p", "gap=6.8eV", "--fragment", "none.sdf"], "fragment: there is no file"),
        (["--formula", "C100H200"], "formula: no neutral molecule"),
        (["--formula", "CH5"], "formula: no neutral molecule"),
        (["--formula", "C2H3"], "formula: no neutral molecule"),
        (["--formula", "C7H10O2", "--atoms", "3"], "takes 9 heavy atoms, the molecules have 3"),
        (["--element", "C>=50"], "element: no neutral molecule"),
        (["--element", "F>=7", "--element", "C<=1"], "element: no neutral molecule"),
    ],
)
def test_generate_refuses(refused: Callable[..., str], words: list[str], message: str) -> None:
    assert message in refused("generate", *words)


def test_all_atoms_are_three_to_twenty_nine(refused: Callable[..., str], cards: Cards) -> None:
    for wrong in ("2", "30", "5..40"):
        message = refused("generate", "-p", "gap=6eV", "--atoms", wrong, prior=cards.whole)
        assert "atoms: expected 3 to 29 atoms, hydrogens included" in message
    message = refused("generate", "-p", "gap=6eV", "--atoms", "9", prior=cards.whole)
    assert "is of another alphabet than 'qm9'" in message


def test_files_that_are_broken_are_named(refused: Callable[..., str], tmp_path: Path) -> None:
    good = ethanol(tmp_path).read_text()
    (tmp_path / "cut.sdf").write_text(good[: len(good) // 2])
    assert "cut.sdf, record 1" in refused("optimize", "cut.sdf", "-p", "mu=2D")
    lines = good.splitlines()
    lines[4] = "       nan" + lines[4][10:]
    (tmp_path / "nan.sdf").write_text("\n".join(lines) + "\n")
    assert "nan.sdf, record 1" in refused("optimize", "nan.sdf", "-p", "mu=2D")
    (tmp_path / "nan.xyz").write_text("2\n\nO 0 0 0\nH nan 0 1\n")
    assert "finite coordinates" in refused("optimize", "nan.xyz", "-p", "mu=2D")
    (tmp_path / "short.xyz").write_text("5\n\nO 0 0 0\n")
    assert "expected 5 atoms, got 1" in refused("optimize", "short.xyz", "-p", "mu=2D")
    (tmp_path / "sulfur.xyz").write_text("2\n\nS 0 0 0\nO 1.5 0 0\n")
    message = refused("optimize", "sulfur.xyz", "-p", "mu=2D")
    assert "expected elements H, C, N, O, F, got S" in message
    (tmp_path / "lead.txt").write_text("C")
    assert "expected an SDF, MOL, XYZ, PDB or SMILES file" in refused(
        "optimize", "lead.txt", "-p", "mu=2D"
    )
    assert "radius: expected a positive" in refused(
        "optimize", "ethanol.sdf", "-p", "mu=2D", "--radius", 0
    )


def test_a_fragment_larger_than_the_molecules(refused: Callable[..., str], tmp_path: Path) -> None:
    ethanol(tmp_path)
    message = refused("generate", "--fragment", "ethanol.sdf", "--atoms", "2")
    assert "fragment: has 3 heavy atoms, the molecules at most 2" in message


def test_far_targets_are_refused_warned_of_or_allowed(
    ctrlgen: Command, cards: Cards, refused: Callable[..., str]
) -> None:
    with pytest.raises(ValueError, match="--far overrides"):
        wish_of(["gap=30eV"]).sizes("qm9", range(3, 30))
    _, said = wish_of(["gap=30eV"], far=True).sizes("qm9", range(3, 30))
    assert "lies" in said[0] and "deviations outside" in said[0]
    _, said = wish_of(["gap=11.5eV"]).sizes("qm9", range(15, 30))
    assert len(said) == 1
    _, said = wish_of(["gap=6.8eV"]).sizes("qm9", range(15, 30))
    assert said == []
    _, said = wish_of(["gap=9eV", "homo=-5eV", "lumo=0eV"]).sizes("qm9", range(15, 30))
    assert "Mahalanobis" in said[0]


def test_possible_sizes_of_molecules() -> None:
    def sizes(text: str, name: str) -> list[int]:
        return possible_sizes(parse_formula(text), name)

    assert sizes("C7H10O2", "qm9-heavy") == [9] and sizes("C7H10O2", "qm9") == [19]
    assert sizes("CH4", "qm9-heavy") == [1] and sizes("C2H7", "qm9") == []
    assert sizes("CF4", "qm9") == [5] and sizes("CF5", "qm9") == []
    assert possible_sizes({"N": (2, 3)}, "qm9-heavy") == list(range(2, 10))


def test_outputs_are_never_inputs_and_are_tried_first(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    before = lead.read_bytes()
    words = ["score", lead, "--evaluator", cards.evaluator]
    refused = ctrlgen(*words, "-o", lead, "--overwrite")
    assert refused.code == 2 and "which is read; name another file" in " ".join(refused.err.split())
    write_xyz(tmp_path / "one.xyz", [read_sdf(lead)[0].mol])
    refused = ctrlgen("score", "one.xyz", "-o", "one.sdf", "--overwrite")
    assert refused.code == 2 and "one.xyz, which is read" in " ".join(refused.err.split())
    (tmp_path / "afile").write_text("")
    refused = ctrlgen(*words, "-o", "afile/out.sdf")
    assert refused.code == 2 and "out: cannot write afile/out.sdf" in " ".join(refused.err.split())
    assert lead.read_bytes() == before
    assert solved(ctrlgen, *words, "-o", "new/folder/out.sdf")["complete"]
    assert (tmp_path / "new" / "folder" / "out.csv").is_file()


def test_a_bad_record_is_a_row_with_its_reason(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mols = []
    for text in ("CO", "CCl", "C[NH3+]", "CCCCCCCCCC", "C[C@H](O)F"):
        mol = Chem.AddHs(Chem.MolFromSmiles(text))
        AllChem.EmbedMolecule(mol, randomSeed=1)
        mols.append(mol)
    tags = [{"name": f"no. {i}", "mine": i} for i in range(1, 6)]
    write_sdf(tmp_path / "in.sdf", mols, tags)
    text = (tmp_path / "in.sdf").read_text()
    (tmp_path / "in.sdf").write_text(text + "broken\n$$$$\n")
    words = ["score", "in.sdf", "--evaluator", cards.evaluator]
    content = solved(ctrlgen, *words, "-o", "out.sdf")
    rows = content["molecules"]
    assert [row["record"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["name"] for row in rows[:5]] == [tag["name"] for tag in tags]
    assert [row.get("mine") for row in rows] == ["1", "2", "3", "4", "5", None]
    reasons = [row["reason"] or "" for row in rows]
    assert reasons[0] == reasons[4] == "" and "complete V2000" in reasons[5]
    assert "got Cl" in reasons[1] and "got charge +1" in reasons[2] and "got 32" in reasons[3]
    assert [row["valid"] for row in rows] == [True, False, False, False, True, False]
    assert rows[4]["smiles"] == Chem.CanonSmiles("C[C@H](O)F") and rows[2]["charge"] == 1
    assert rows[1]["smiles"] == "CCl" and rows[1].get("evaluator gap (meV)") is None
    assert len(read_sdf(tmp_path / "out.sdf")) == 6
    assert read_csv(tmp_path / "out.csv")[1]["mine"] == "2"
    strict = ctrlgen(*words, "-o", "strict.sdf", "--strict")
    assert strict.code == 2 and "record 2 (no. 2)" in " ".join(strict.err.split())
    assert "got Cl" in " ".join(ctrlgen(*words, "-o", "shown.sdf").out.split())


def test_an_interrupted_sample_leaves_its_json(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Prior.sample, []

    def stopping(self: Prior, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise Terminated
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Prior, "sample", stopping)
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 1, "--batch", 2]
    outcome = ctrlgen("sample", "-n", 4, "--atoms", "3", *words, "-o", "out.sdf")
    assert outcome.code == 143
    content = json.loads((tmp_path / "out.json").read_text())
    assert not content["complete"] and content["missing"] == [2, 3]
    assert len(content["molecules"]) == len(read_csv(tmp_path / "out.csv")) == 2


def test_a_network_that_is_no_number_is_an_error_with_its_step(
    ctrlgen: Command, cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MoleculeVelocity.forward

    def singular(self: Any, x: torch.Tensor, t: torch.Tensor, **more: Any) -> torch.Tensor:
        value = forward(self, x, t, **more)
        late = (t > 0.6) & (x[:, 0, 0] > 0)  # some molecules, not before that time
        return torch.where(late[:, None, None], torch.nan, value)

    monkeypatch.setattr(MoleculeVelocity, "forward", singular)
    words = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 4, "--batch", 3]
    outcome = ctrlgen("sample", "-n", 6, "--atoms", 3, *words, "-o", "out.sdf")
    assert outcome.code == 2
    content = json.loads((tmp_path / "out.json").read_text())
    lost = {item["seed"]: item["step"] for item in content["lost"]}
    assert lost and len(content["molecules"]) == 6  # none is left out, none harms another
    assert set(lost.values()) == {3}  # whose middle is 0.625
    said = " ".join(outcome.err.split())
    assert "error prior: its network gives what is no number from step 3 of 4 (t = 0.75)" in said
    for row in content["molecules"]:
        assert (row["reason"] == "positions are not finite") == (row["seed"] in lost)


DOCUMENTED = (Path(__file__).parents[2] / "docs" / "reference-molecules.md").read_text()


def documented(title: str) -> set[str]:
    """The first cells of the tables of a section, and what it lists in words."""
    section = DOCUMENTED.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def general(name: str) -> str:
    """A column with a property's name and unit in it as the page writes it."""
    for own, about in PROPERTIES.items():
        if name == f"xtb mu ({about.unit})":
            return name
        name = name.replace(f" {own} ({about.unit})", " NAME (UNIT)")
        name = re.sub(rf"^without evaluator {own}$", "without evaluator NAME", name)
    return name


def test_the_reference_page_has_every_column_and_key(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    pytest.importorskip("posebusters")
    lead, words = ethanol(tmp_path), ["-p", "mu=2D", "-n", 1, *cards.options]
    asked = ["--element", "N<=2", "--fragment", lead, "--similar", lead, "--posebusters"]
    bare = ["--prior", cards.prior, "--evaluator", cards.evaluator, "--steps", 1, "-n", 1]
    contents = [
        solved(ctrlgen, "generate", *words, *asked, "--atoms", 4, "-o", "a.sdf"),
        solved(ctrlgen, "optimize", lead, *words, "-o", "b.sdf"),
        solved(ctrlgen, "sample", *bare, "--atoms", 3, "-o", "c.sdf"),
        solved(ctrlgen, "score", lead, "--evaluator", cards.evaluator, "-o", "d.sdf"),
    ]
    columns = {name for file in "abcd" for name in read_csv(tmp_path / f"{file}.csv")[0]}
    rows = {name for content in contents for row in content["molecules"] for name in row}
    assert columns == rows | {"name"}
    page = documented("A row")
    assert {general(name) for name in columns} - page == set(), "columns that are not explained"
    there = {general(name) for name in columns}
    if importlib.util.find_spec("tblite") is None:
        there.add("xtb mu (D)")
    assert page - there == set(), "columns that no command writes"
    keys = documented("NAME.json")
    summary = {general(name) for content in contents for name in content["summary"]}
    summary = {"FLAG, unknown" if name.endswith(", unknown") else name for name in summary}
    assert {name for content in contents for name in content} | summary == keys
    inner = {
        *contents[0]["settings"], *contents[0]["network"], *contents[0]["prior"],
        *json.loads(ctrlgen("properties", "--json").out)[0],
    }  # fmt: skip
    assert inner <= set(re.findall(r"`([^`]+)`", DOCUMENTED))


def test_a_function_that_fails_and_a_network_of_the_wrong_kind_are_named(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "def divide(mols):\n    return 1 / 0\ndef words(mols):\n    return ['a' for m in mols]\n"
    )
    words = ["generate", "-p", "gap=6.8eV", "-n", 1, "--atoms", 3, *cards.options]
    refused = ctrlgen(*words, "--rank", "mine.py:divide", "-o", "a.sdf")
    assert refused.code == 2
    assert "rank: mine.py:divide raised ZeroDivisionError" in " ".join(refused.err.split())
    refused = ctrlgen(*words, "--rank", "mine.py:words", "-o", "b.sdf")
    assert refused.code == 2
    assert "rank: expected numbers or None, got 'a'" in " ".join(refused.err.split())
    words[words.index("--evaluator") + 1] = cards.guide
    refused = ctrlgen(*words, "-o", "c.sdf")
    assert refused.code == 2 and "evaluator: " in refused.err
    assert "reads heavy atoms alone" in " ".join(refused.err.split())


def test_the_seed_in_the_file_gives_the_row_again(ctrlgen: Command, cards: Cards) -> None:
    """Further draws and further starts, of other numbers of atoms, by their own seeds."""
    words = ["-p", "gap=6.8eV", *cards.options[:-1], 1, "--draws", 3]
    content = solved(ctrlgen, "generate", *words, "-n", 3, "-o", "out.sdf")
    rows = [row for row in content["molecules"] if row["seed"] >= 2**32]
    assert rows and all(row["starts"] == 2 for row in content["molecules"])
    seeds = ",".join(str(row["seed"]) for row in rows)
    again = solved(ctrlgen, "generate", *words, "--seeds", seeds, "-o", "again.sdf")
    for row, other in zip(rows, again["molecules"], strict=True):
        for key in ("seed", "smiles", "formula", "atoms of the prior", "cost", "reason"):
            assert other[key] == row[key], key
        assert other["starts"] == 1


def test_a_fragment_and_a_likeness_have_columns_and_count(
    ctrlgen: Command, cards: Cards, tmp_path: Path
) -> None:
    lead = ethanol(tmp_path)
    wish = ["--fragment", lead, "--similar", lead, "--element", "N=0"]
    content = solved(ctrlgen, "generate", *wish, "-n", 2, "--atoms", 4, "-o", "o.sdf",
                     *cards.options)  # fmt: skip
    for row in content["molecules"]:
        assert {"fragment", "composition", "shape similarity", "satisfied (guide)"} <= set(row)
        if not row["fragment"]:
            assert not row["satisfied (guide)"] and not row["satisfied (evaluator)"]
    assert content["summary"]["fragment"] is not None


def test_verdicts_follow_structure_and_networks(molecule: Callable[[str], Any]) -> None:
    given = [molecule("CCO"), molecule("CCC"), molecule("CC(O)C")]
    positions, classes, counts = tensors(given)
    signals = join(positions, classes, 5)

    def network(x: torch.Tensor, p: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.full((len(x), 6), 6800.0)

    scores = score(signals, "qm9", guide=network, evaluator=network, mols=given)
    wish = wish_of(["gap=6.8eV"], formula="C2H6O")
    first, second, third = verdicts(wish, "qm9", scores, signals, counts, 0.05)
    assert first == {
        "satisfied (guide)": True, "satisfied (evaluator)": True, "composition": True
    }  # fmt: skip
    assert not second["satisfied (guide)"] and not third["composition"]
    far = verdicts(wish_of(["gap=7eV"]), "qm9", scores, signals, counts, 0.05)
    assert not far[0]["satisfied (guide)"] and far[0]["satisfied (evaluator)"]
    piece = verdicts(Wish(fragment=given[0]), "qm9", scores, signals, counts, 0.05)
    assert [row["fragment"] for row in piece] == [True, False, True]
    alike = verdicts(Wish(like=given[0]), "qm9", scores, signals, counts, 0.05)
    assert alike[0]["similarity"] == 1 and alike[0]["shape similarity"] == pytest.approx(
        1, abs=1e-3
    )
    assert alike[1]["similarity"] < 1
    blind = score(signals, "qm9", guide=network, mols=given)
    (unknown, *_) = verdicts(wish_of(["gap=6.8eV"]), "qm9", blind, signals, counts, 0.05)
    assert unknown["satisfied (guide)"] and unknown["satisfied (evaluator)"] is None


def test_a_missing_extra_is_named(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctrlgen.rows.errors import MissingExtra

    def missing(module: str, extra: str) -> None:
        raise MissingExtra(module, extra)

    monkeypatch.setattr(designs, "require", missing)
    assert 'pip install "ctrlgen[molecules]"' in refused("generate", "-p", "gap=6.8eV")


def test_words_are_read() -> None:
    assert parse_atoms(None, "qm9") == range(3, 30)
    assert parse_atoms("5..7", "qm9-heavy") == range(5, 8)
    assert parse_extreme("gap") == ("gap", None) and parse_extreme("gap=9eV") == ("gap", 9000.0)
    assert outside(3.0, 1.0, 2.0) == 1 and outside(0.5, 1.0, 2.0) == 0.5
    assert outside(1.5, 1.0, 2.0) == 0 and math.isnan(outside(math.nan, 1.0, 2.0))
    assert interval_text("gap", 6000, 7000) == "6000..7000"
    with pytest.raises(ValueError, match="guide: needed for gap"):
        Wish(largest={"gap": None}).cost(None, "qm9", torch.tensor([5]))
