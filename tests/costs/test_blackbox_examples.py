"""What a black box is used for: xTB's dipole, the loudness of a clip, the size of a file."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ctrlgen as cg
from ctrlgen.domains.molecules import chemistry
from ctrlgen.domains.molecules.elements import ALL_ATOM
from ctrlgen.domains.molecules.rdkit_scores import RDKitScore, ScoreWish, parse_score, parse_scores
from ctrlgen.domains.molecules.states import join
from ctrlgen.rows.errors import UnknownName


@pytest.fixture
def molecules() -> Tensor:
    """Water, and five hydrogens in a heap, which no bonds fit."""
    pytest.importorskip("rdkit")
    water = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]]
    heap = [[0.4 * i, 0.0, 0.0] for i in range(3)]
    classes = torch.tensor([[ALL_ATOM.index(a) for a in "OHH"], [0, 0, 0]])
    return join(torch.tensor([water, heap]), classes, len(ALL_ATOM))


def test_the_dipole_of_xtb(molecules: Tensor) -> None:
    pytest.importorskip("tblite.interface", reason="tblite has no build for this system")

    def dipole(mols: list[Any]) -> list[float]:
        return [found.mu_raw for found in chemistry.xtb(mols)]

    box = cg.BlackBoxCost(dipole, view=cg.molecules.Molecules("qm9"))
    value = box(molecules)
    assert 1.9 < float(value[0]) < 2.6 and value[1] == torch.inf  # debye; GFN2 has 2.3
    assert box.why(molecules) == [None, "no number: NaN"]
    target = cg.LevelSet(box, 2.0)(molecules)
    assert float(target[0]) == pytest.approx((float(value[0]) - 2) ** 2) and box.calls == 2


def test_a_program_reads_a_molecule(molecules: Tensor) -> None:
    write = cg.molecules.MoleculeFile("qm9")
    if shutil.which("grep") is None:
        pytest.skip("there is no grep here")
    box = cg.BlackBoxCost(cg.Command(["grep", "-c", " H ", "{file}"], write))
    assert box(molecules).tolist() == [2.0, torch.inf]
    assert box.why(molecules)[1] == (
        "cannot be written: ValueError: no bond orders fit the valences of its atoms"
    )
    with pytest.raises(UnknownName, match="alphabet"):
        cg.molecules.MoleculeFile("zinc")
    with pytest.raises(ValueError, match=r"suffix: expected .sdf or .xyz"):
        cg.molecules.MoleculeFile("qm9", ".pdb")


@pytest.mark.parametrize(
    ("wish", "value", "cost"),
    [  # of water, by the papers' own programs: a score, and the squared distance in its scales
        ("tpsa<=11.5", 31.5, 1.0),
        ("tpsa=31.5", 31.5, 0.0),
        ("logp>=0.1754", -0.8246, 1.0),
        ("logp=-2..0", -0.8246, 0.0),
        ("qed>=0.5", 0.328, 2.96),
    ],
)
def test_scores_of_rdkit(molecules: Tensor, wish: str, value: float, cost: float) -> None:
    found: Any = parse_score(wish).cost("qm9")
    box: Any = found.predict
    assert float(box(molecules)[0]) == pytest.approx(value, abs=0.01)
    costs = found(molecules)
    assert float(costs[0]) == pytest.approx(cost, abs=0.05) and not costs[1].isfinite()
    assert not found.differentiable


def test_the_score_of_synthesis_ranks_and_wishes_are_read() -> None:
    chem = pytest.importorskip("rdkit.Chem")
    easy, hard = (chem.MolFromSmiles(text) for text in ("CCO", "C1CC23CC1CC2C1CC31"))
    low, high, none = RDKitScore("sa")([easy, hard, None])
    assert low is not None and high is not None and 1 < low < 3 < high and none is None
    with pytest.raises(UnknownName, match="score: 'beauty' is not known; known are: logp, qed"):
        parse_score("beauty>=3")
    for text in ("qed", "qed>3..4", "qed>=", "mine.py"):
        with pytest.raises(ValueError, match=r"score: expected NAME=NUMBER.*or FILE.py:NAME"):
            parse_score(text)
    with pytest.raises(ValueError, match="score: expected tpsa without a unit, got 'tpsa=40 A'"):
        parse_score("tpsa=40 A")
    with pytest.raises(ValueError, match="score: expected low <= high for logp"):
        parse_score("logp=3..1")
    assert parse_score("QED ≥ .5") == parse_score("qed>=0.5")
    same = [str(parse_score(text)) for text in ("sa<=3", "logp=1..3", "tpsa==40")]
    assert same == ["sa <= 3", "logp = 1..3", "tpsa = 40"]
    assert parse_score("logp=1..3").bounds == (1, 3)
    with pytest.raises(ValueError, match=r"expected one of qed, .* in an interval, got a low mine"):
        assert ScoreWish("mine", reference="mine.py:mine").bounds
    assert parse_scores("qed>=.5, sa<=3") == [parse_score("qed>=0.5"), parse_score("sa<=3")]


def test_the_loudness_of_a_clip_by_a_program() -> None:
    """Read back by the standard library: the file holds 16 bits at the rate that was asked."""
    pytest.importorskip("soundfile")
    program = (
        "import math, struct, sys, wave\n"
        "w = wave.open(sys.argv[1]); n = w.getnframes()\n"
        "x = struct.unpack(f'<{n}h', w.readframes(n)); assert w.getframerate() == 8000\n"
        "print('RMS', 20 * math.log10(math.sqrt(sum(v * v for v in x) / n) / 32768), 'dB')"
    )
    time = torch.arange(800) / 8000
    tone = torch.sin(2 * torch.pi * 100 * time)
    clips = torch.stack((tone, 0.1 * tone)).unsqueeze(1)
    write = cg.audio.SoundFile(8000)
    box = cg.BlackBoxCost(cg.Command([sys.executable, "-c", program, "{file}"], write), workers=2)
    assert torch.allclose(box(clips), torch.tensor([-3.01, -23.01]), atol=0.02)
    with pytest.raises(ValueError, match="rate: expected a positive integer"):
        cg.audio.SoundFile(0)


def test_the_size_of_a_jpeg() -> None:
    """Of a file by a command, and of the same bytes in this process."""
    image = pytest.importorskip("PIL.Image")
    images = torch.stack((torch.zeros(1, 16, 16), torch.linspace(-1, 1, 256).view(1, 16, 16)))

    def size(x: Tensor) -> list[int]:
        files = [io.BytesIO() for _ in x]
        for file, one in zip(files, x, strict=True):
            pixels = one[0].add(1).mul(127.5).round().byte().numpy()
            image.fromarray(pixels).save(file, "JPEG")
        return [file.tell() for file in files]

    here = cg.BlackBoxCost(size)(images)
    assert here[0] < here[1]
    if shutil.which("wc") is not None:
        command = cg.Command(["sh", "-c", "wc -c < {file}"], cg.images.ImageFile(".jpg"))
        assert torch.equal(cg.BlackBoxCost(command)(images), here)


def test_a_folder_of_the_user_with_spaces_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "a folder" / "mine.py"
    file.parent.mkdir()
    file.write_text("def score(x):\n    return x.sum(1)\n")
    assert cg.BlackBoxCost(f"{file}:score")(torch.ones(2, 3)).tolist() == [3.0, 3.0]
