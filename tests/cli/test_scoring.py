"""`sample --score`: samples that a user's score steers, as a run that resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen import load
from ctrlgen.commands.scoring import Scored, Scoring
from ctrlgen.costs import FunctionCost
from ctrlgen.domains.audio.sampling import Drawing as Clips
from ctrlgen.domains.molecules.options import Sample
from ctrlgen.domains.molecules.sampling import Drawing as Molecules
from ctrlgen.domains.molecules.views import Molecules as View
from ctrlgen.methods import (
    BestOf,
    EvolutionStrategy,
    ParticleResampling,
    RenoisingSearch,
    TrustRegionSearch,
)
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian
from ctrlgen.testing.oracles import gaussian

SCORE = """
def dark(images):
    return images.mean((1, 2, 3))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "mine.py"
    place.write_text(SCORE)
    return place


def test_images_by_a_score_go_on_where_the_file_is_trusted(
    ctrlgen: Any, grey_card: Path, file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("image", "sample", "--prior", grey_card, "-n", 2, "--steps", 2, "-o", out)
    found = ctrlgen(*words, "--score", f"{file}:dark", "--calls", 8, "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert (
        content["method"].startswith("BestOf(solver=Midpoint(steps=2")
        and "n=8" in content["method"]
    )
    prior = load(str(grey_card), trust="ctrlgen")
    draws = BestOf(n=8, solver=prior.solver(2))(
        prior, FunctionCost(lambda x: x.mean((1, 2, 3))), seeds=[0, 1]
    )
    scores = [row["score"] for row in content["scores"]]
    assert scores == pytest.approx(draws.costs.tolist(), abs=1e-5)
    assert (out / "sample-1.png").is_file() and content["complete"]
    refused = ctrlgen("resume", out)
    assert refused.code == 2 and "--trust mine.py" in " ".join(refused.err.split())
    assert ctrlgen("resume", out, "--trust", "mine.py").code == 0


def test_bad_scores_are_refused_before_any_compute(
    ctrlgen: Any, grey_card: Path, file: Path, tmp_path: Path
) -> None:
    words = ("image", "sample", "--prior", grey_card, "-o", tmp_path / "out")
    for more, said in (
        (("--score", f"{file}"), "score: expected FILE.py:NAME of a file that exists"),
        (("--score", f"{file}:dark", "--method", "dps"), "method: expected best-of, evolution"),
        (("--score", f"{file}:dark", "--calls", 2), "calls"),
    ):
        refused = ctrlgen(*words, *more)
        assert refused.code == 2 and said in " ".join(refused.err.split()), more
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("calls", "steps"), [(8, 1), (50, 1), (50, 4), (200, 6)])
def test_no_method_asks_more_often_than_it_may(calls: int, steps: int) -> None:
    law = gaussian(torch.zeros(2), torch.eye(2))
    prior = Prior(law.flow(), Gaussian((2,)))
    kinds = {"best-of": BestOf, "evolution": EvolutionStrategy, "particles": ParticleResampling}
    kinds |= {"trust-region": TrustRegionSearch, "renoising": RenoisingSearch}
    for name, kind in kinds.items():
        method = Scoring("mine.py:dark", name, calls).method(prior, steps)
        assert isinstance(method, kind)
        asked: list[int] = []
        cost = FunctionCost(lambda x, asked=asked: asked.append(len(x)) or x.mean(1))
        cost.__class__ = type("Opaque", (FunctionCost,), {"differentiable": False})
        result = method(prior, cost, seeds=[3])
        assert sum(asked) == int(result.objective_calls[0])
        assert 0.6 * calls <= sum(asked) <= calls, (name, sum(asked))


def test_sounds_and_molecules_are_asked_in_their_own_form(file: Path) -> None:
    pytest.importorskip("rdkit")
    scoring = Scored(score=f"{file}:dark", calls=9, scorers=2, score_timeout=3.0).scoring
    assert scoring == Scoring(f"{file}:dark", "best-of", 9, 1.0, 2, 3.0)
    job = Clips("freedoom-music", number=1, steps=2, scoring=scoring).job()
    assert (job.cost.workers, job.cost.timeout, job.method.n) == (2, 3.0, 9)
    drawing = Molecules(Sample(number=2, score=f"{file}:dark", method="evolution", calls=9))
    job = drawing.job()
    assert job.cost.view == View("qm9-heavy") and isinstance(job.method, EvolutionStrategy)
    assert drawing.code == [file] and file in drawing.files()
    wish = Molecules(Sample(number=2, score="qed>=0.5", calls=9))
    assert repr(wish.job().cost.predict) == "qed" and wish.code == []
