"""What the measurement of priors and regressors draws, and how it sums up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ctrlgen.domains.molecules import quality
from ctrlgen.domains.molecules.atom_counts import sizes
from ctrlgen.domains.molecules.data import Molecules
from ctrlgen.domains.molecules.networks import build
from ctrlgen.domains.molecules.properties import PROPERTIES
from ctrlgen.domains.molecules.regressors import PropertyNetwork
from ctrlgen.domains.molecules.states import AtomCodec, Atoms, split
from ctrlgen.priors.cards import Card
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior

TRUNK = {"width": 8, "depth": 1, "pair": 4, "vectors": 2, "heads": 2, "bands": 6}


@pytest.mark.parametrize("name", ["qm9", "qm9-heavy", "moses-heavy"])
def test_sizes_follow_the_histogram(name: str) -> None:
    counts = quality.draw_counts(name, range(20000))
    table = sizes(name)
    known = table.atoms > 1
    share = table.members[known] / table.members[known].sum()
    found = torch.stack([(counts == n).float().mean() for n in table.atoms[known]])
    assert int(counts.min()) > 1 and float(found.sum()) == pytest.approx(1)
    assert float((found - share).abs().max()) < 4 * (0.25 / 20000) ** 0.5
    assert quality.draw_counts(name, [7]).tolist() == [int(counts[7])]


def test_samples_do_not_depend_on_the_chunks() -> None:
    torch.manual_seed(0)
    network = build("geot", classes=14, scale=0.2, frequencies=[1 / 14] * 14, **TRUNK)
    prior = Prior(Flow(network, CondOT(), "velocity"), Atoms(9, 17), AtomCodec())
    whole = quality.sample(prior, "qm9-heavy", 5, 2)
    parts = quality.sample(prior, "qm9-heavy", 5, 2, batch=2)
    torch.testing.assert_close(whole, parts)
    assert split(whole).counts.tolist() == quality.draw_counts("qm9-heavy", range(5)).tolist()


def test_errors_are_in_the_units_of_the_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    network = PropertyNetwork(2, [1.0] * 6, [1.0] * 6, **TRUNK)
    positions, classes = torch.zeros(3, 4, 3), torch.tensor([[0, 1, -1, -1]] * 3)
    signal = quality.join(positions, classes, 2)
    exact = network.of(split(signal)).detach()[0]
    wanted = {name: exact[i].repeat(3) + i for i, name in enumerate(PROPERTIES)}
    counts = torch.full((3,), 2)
    known = Molecules(positions, classes, counts, wanted, torch.arange(3), "qm9", "test")
    monkeypatch.setattr(quality, "read", lambda *_: known)
    found = quality.errors(network, "qm9", Path(), "test")
    assert list(found.values()) == pytest.approx([0, 1, 2, 3, 4, 5], abs=1e-4)


def test_summaries_are_one_line() -> None:
    row: dict[str, Any] = {"molecule_stable": 0.5, "atom_stable": 0.9, "valid_unique": 0.4}
    rows = [{**row, "steps": 10}, {**row, "steps": 50, "molecule_stable": 0.6}]
    text = quality._summary("qm9", {"rows": rows, "samples": 9})
    assert text.startswith("60.0% of molecules") and "50 midpoint steps" in text
    units = {name: value.unit for name, value in PROPERTIES.items()}
    content = {"units": units, "test": dict.fromkeys(PROPERTIES, 0.25)}
    assert "mu 0.25 D" in quality._summary("qm9-guide", content)


@pytest.mark.parametrize(("grid", "churn"), [(None, None), (1.5, None), (None, 2.0)])
def test_the_card_gets_the_numbers_and_the_command_that_made_them(
    grid: float | None, churn: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "qm9-heavy.json").write_bytes((quality.WEIGHTS / "qm9-heavy.json").read_bytes())
    before = Card.read(tmp_path / "qm9-heavy.json").quality
    row = {"steps": 50, "molecule_stable": 0.5, "atom_stable": 0.9, "valid_unique": 0.4}

    def measured(
        name: str, data: Path | None, count: int, *_: Any, grid: Any, churn: float | None
    ) -> dict[str, Any]:
        return {"samples": count, "power": grid and grid.power, "churn": churn, "rows": [row]}

    monkeypatch.setattr(quality, "measure_prior", measured)
    words = ["quality", "qm9-heavy", "--samples", "9", "--steps", "50", "--cards", str(tmp_path)]
    more = [] if grid is None else ["--grid", str(grid)]
    more += [] if churn is None else ["--churn", f"{churn:g}"]
    monkeypatch.setattr("sys.argv", words + more)
    quality.main()
    whole = Card.read(tmp_path / "qm9-heavy.json").quality
    new = whole if churn is None else whole["stochastic"]
    assert new["rows"] == [row] and (new["power"], new["churn"]) == (grid, churn)
    if churn is None:  # each leaves the other's numbers as they are
        assert whole["stochastic"] == before["stochastic"]
    else:
        assert whole == {**before, "stochastic": new}
    told = " ".join(["python -m ctrlgen.domains.molecules.quality", words[1], *words[2:6], *more])
    assert new["command"] == told
