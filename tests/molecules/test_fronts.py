"""`ctrlgen molecule generate --pareto`: words, costs, the search, its tables; tiny networks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_molecules import Cards, Command, solved

from ctrlgen.costs.pareto import hypervolume, nondominated
from ctrlgen.domains.molecules.atom_counts import DEVIATION, sizes
from ctrlgen.domains.molecules.files import read_csv
from ctrlgen.domains.molecules.front_search import FrontSearch, Places
from ctrlgen.domains.molecules.front_tables import settled
from ctrlgen.domains.molecules.fronts import Front
from ctrlgen.domains.molecules.options import Generation
from ctrlgen.domains.molecules.runs import Designing
from ctrlgen.report.reading import read
from ctrlgen.runs.spec import same
from ctrlgen.runs.store import Store

rdkit = pytest.importorskip("rdkit")


def words(cards: Cards, *more: object) -> list[object]:
    return [
        "generate", "--pareto", "gap,-mu", "-n", 4, *cards.options[:-1], 1, "--draws", 3,
        "--batch", 2, *more,
    ]  # fmt: skip


def options(cards: Cards, **more: object) -> Generation:
    return Generation(
        pareto="gap,-mu", number=4, prior=str(cards.prior), guide=str(cards.guide),
        evaluator=str(cards.evaluator), steps=2, evaluations=2, restarts=1, draws=3, batch="2",
        **more,
    )  # fmt: skip


def test_a_front_is_read_from_words() -> None:
    front = Front.of("gap, -mu")
    assert front.names == ("gap", "mu") and front.large == (True, False)
    assert str(front) == "gap large against mu small"
    wish = Generation(
        pareto="gap=9eV,-mu", maximise=["alpha"], properties=["cv=30cal/(mol K)"]
    ).wish
    assert wish.largest == {"alpha": None, "gap": 9000.0} and wish.smallest == {"mu": None}
    others = front.others(wish)
    assert others is not None and others.names == ("cv", "alpha")
    assert front.others(Generation(pareto="gap,-mu").wish) is None
    cost = front.costs(torch.tensor([[1061.9, 1.1757]]))
    assert torch.allclose(cost, torch.tensor([[-1.0, 1.0]]))
    low, high = front.reference(sizes("qm9-heavy"))
    assert 3000 < low < 5000 and 6 < high < 12


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--pareto", "gap"], "pareto: expected two or three properties"),
        (["--pareto", "gap,mu,alpha,cv"], "pareto: expected two or three properties"),
        (["--pareto", "gap,-gap"], "pareto: expected different properties, got gap twice"),
        (["--pareto", "gap,mass"], "pareto: expected a property, alpha,"),
        (["--pareto", "gap=9,mu"], "pareto: gap: expected a unit"),
        (["--pareto", "gap,mu", "-p", "mu>=3D"], "pareto: mu is traded off"),
        (["--pareto", "gap,mu", "--maximise", "gap"], "pareto: gap is traded off"),
        (["--pareto", "gap,mu", "--weight", "gap=2"], "pareto: gap is traded off"),
        (["--pareto", "gap,mu", "--rank", "a.py:f"], "rank: a front has its own order"),
        (["-p", "gap=6eV", "--compare"], "compare: it is of --pareto"),
    ],
)
def test_what_is_no_front_is_refused(ctrlgen: Command, arguments: list[str], text: str) -> None:
    refused = ctrlgen("generate", *arguments, "-n", 2)
    assert refused.code == 2 and text in " ".join(refused.err.split())


def test_a_run_of_a_front_says_who_is_on_it(ctrlgen: Command, cards: Cards, tmp_path: Path) -> None:
    content = solved(ctrlgen, *words(cards, "-o", "out.sdf", "--compare", "--no-report"))
    told, rows = content["front"], content["molecules"]
    assert content["asked"] == ["gap large against mu small"]
    assert told["properties"] == ["gap", "mu"] and told["unit"] == "MAD MAD"
    assert (tmp_path / "out.png").is_file()
    # two midpoint steps of two evaluations; three draws, and twice two more to compare
    assert told["draws"]["evaluations"] == 4 * (3 + 4)
    for row in rows:
        assert row["evaluations"] == 4 * row["objective calls"] and row["objective calls"] >= 4
        assert row["backward passes"] == 4 * (row["objective calls"] - 3)
        assert (row["front rank"] == 1) == bool(row["front"])
        assert row["front"] in (True, False) or row["valid"]
    steered = [row["evaluations"] + row["backward passes"] for row in rows]
    assert told["molecules"]["evaluations"] == pytest.approx(sum(steered) / 4)
    spent = sum(row["evaluations"] for row in rows) + 4 * 4 * 4
    assert content["network"]["forward_rows"] == spent
    assert [row["front"] for row in read_csv(tmp_path / "out.csv")] == [
        {True: "true", False: "false", None: ""}[row["front"]] for row in rows
    ]
    # a report of either form has the columns and the front
    for place in (tmp_path / "out.json", tmp_path / "out.run"):
        (section,) = read(place)
        assert section.shared["front"]["properties"] == told["properties"]
        assert [s.metrics.get("front") for s in section.samples] == [r["front"] for r in rows]
    # a unit by itself is what it is in the run: cut off, it goes on to the same front
    job = Designing(options(cards, compare=True)).job()
    alone = job.method(job.prior, job.cost.take(torch.tensor([2, 3])), seeds=[2, 3])
    stored = Store.open(tmp_path / "out.run").result()
    assert torch.equal(alone.samples, stored.samples[2:])
    assert alone.history.keys() == stored.history.keys()
    for name, course in alone.history.items():
        assert same(course, stored.history[name][:, 2:][: len(course)])
    for file in (tmp_path / "out.run").rglob("*0001*"):
        file.unlink()
    outcome = ctrlgen("resume", tmp_path / "out.run", "--json", "--no-report")
    assert outcome.code == 0, outcome.err
    again = json.loads(outcome.out)
    assert again["front"] == told and again["molecules"] == rows


def test_every_direction_has_draws_of_its_own_and_its_own_weights(cards: Cards) -> None:
    job = Designing(options(cards)).job()
    search: FrontSearch = job.method
    pool, starts = search._pool(job.prior, job.cost.seeds)
    assert starts.shape == (4, 2) and len(starts.unique()) == 8 and len(pool.seeds) == 12
    assert torch.equal(pool.seeds % 2**32, torch.arange(4).repeat_interleave(3))
    assert isinstance(job.cost, Places) and search._pool(job.prior, job.cost.seeds)[0] is pool
    # the cost of a row is that of its direction: its gradient prefers its own property
    weights = search.front.weights(4)
    assert weights[0, 1] < weights[0, 0] or weights[0, 0] < weights[0, 1]
    signal = pool.signals[:2]
    cost = search._cost(pool.counts[:2], weights[:2])
    alone = search._cost(pool.counts[1:2], weights[1:2])
    assert torch.allclose(cost(signal)[1:], alone(signal[1:]))
    assert torch.allclose(cost.take(torch.tensor([1]))(signal[1:]), alone(signal[1:]))


def test_the_worth_of_a_front_is_its_hypervolume() -> None:
    front = Front(("gap", "mu"), (True, False))
    values = [(7000.0, 2.0), (8000.0, 3.0), (6900.0, 2.5), (9000.0, 1.0)]
    rows = [
        {
            "valid": place != 3, "evaluations": 10, "backward passes": 2,
            **{f"{who} gap (meV)": gap for who in ("guide", "evaluator")},
            **{f"{who} mu (D)": mu for who in ("guide", "evaluator")},
        }
        for place, (gap, mu) in enumerate(values)
    ]  # fmt: skip
    about = {
        "properties": ["gap", "mu"],
        "large": [True, False],
        "reference": [6000.0, 4.0],
        "steps": 5,
    }
    told = settled(about, rows, [])
    assert [row["front"] for row in rows] == [True, True, False, False]
    assert [row["front rank"] for row in rows] == [1, 1, 2, None]
    area = 1000 * 2.0 + 1000 * 1.0
    area /= DEVIATION["gap"] * DEVIATION["mu"]
    assert told["molecules"]["hypervolume (evaluator)"] == pytest.approx(area)
    assert told["molecules"]["evaluations"] == 12 and told["molecules"]["valid"] == 3
    assert told["draws"]["hypervolume (guide)"] is None
    costs = front.costs(torch.tensor(values[:3]).double())
    assert nondominated(costs).tolist() == [True, True, False]
    assert hypervolume(costs, front.costs(torch.tensor([6000.0, 4.0]))) == pytest.approx(area)
    rows[0]["evaluator mu (D)"] = math.nan
    settled(about, rows, [])
    assert rows[0]["front"] is None and rows[0]["front rank"] is None
