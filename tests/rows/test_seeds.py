"""Random numbers: the published test vectors of Philox, the laws of the draws, their ownership."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from ctrlgen.costs import Reversed
from ctrlgen.domains.images.operators import OPERATORS
from ctrlgen.methods import DPS, DFlow
from ctrlgen.operators.base import measure
from ctrlgen.optimizers import Adam
from ctrlgen.priors.flows import Flow
from ctrlgen.priors.likelihood import log_likelihood
from ctrlgen.priors.paths import CondOT
from ctrlgen.priors.prior import Prior
from ctrlgen.priors.sources import Gaussian, MaskedGaussian
from ctrlgen.rows.seeds import Cipher, as_seeds, normal, philox, rademacher, uniform
from ctrlgen.sampling.grids import Times
from ctrlgen.solvers import Euler

# Known-answer tests of philox4x32-10 in the Random123 distribution: counter, key, answer.
KNOWN = [
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str, device: torch.device) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([int(word, 16)], device=device) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, answer, device):
    found = philox(words(counter, device), words(key, device))
    assert [f"{int(word):08x}" for word in found] == answer.split()


def known_uniforms() -> list[float]:
    """Draws of seed 0: the answer to the zero counter and key."""
    return [(int(word, 16) + 0.5) / 2**32 for word in KNOWN[0][2].split()]


def test_draws_are_the_cipher_of_the_counter(device):
    """Seed 0, stream 0, first block: the first known answer; written out by hand."""
    u = known_uniforms()
    found = uniform([0], (4,), dtype=torch.float64, device=device)
    assert found[0].tolist() == u
    r, angle = math.sqrt(-2 * math.log(u[0])), 2 * math.pi * u[1]
    found = normal([0], (2,), dtype=torch.float64, device=device)[0].tolist()
    assert found == pytest.approx([r * math.cos(angle), r * math.sin(angle)], rel=1e-12)
    assert rademacher([0], (4,))[0].tolist() == [1 if v > 0.5 else -1 for v in u]


def test_seed_and_stream_enter_with_all_their_bits():
    seed, stream = (7 << 40) + 5, (3 << 33) + 2
    counter = tuple(torch.tensor([v]) for v in (1, 0, 2, 6))  # second block
    key = tuple(torch.tensor([v]) for v in (5, 7 << 8))
    expected = [(int(word) + 0.5) / 2**32 for word in philox(counter, key)]
    assert uniform([seed], (8,), stream, dtype=torch.float64)[0, 4:].tolist() == expected


@pytest.mark.parametrize("draw", [uniform, normal, rademacher])
def test_draws_belong_to_the_seed(draw, device):
    """Not to the batch, the order, the shape of the state or what was drawn before."""
    seeds = [11, 3, 2**40 + 3, 0, 5]
    together = draw(seeds, (3, 5), 2, device=device)
    assert together.shape == (5, 3, 5) and together.device.type == device.type
    for i, seed in enumerate(seeds):
        assert torch.equal(draw([seed], (3, 5), 2, device=device)[0], together[i])
    order = torch.tensor([4, 0, 2])
    assert torch.equal(draw(torch.tensor(seeds)[order], (3, 5), 2, device=device), together[order])
    assert torch.equal(draw(seeds, (15,), 2, device=device), together.flatten(1))
    longer = draw(seeds, (101,), 2, device=device)
    assert torch.equal(longer[:, :15], together.flatten(1))


def test_devices_agree(device):
    """To the rounding of the logarithm; the words themselves are the same."""
    for draw, tolerance in ((uniform, 0), (normal, 1e-14), (rademacher, 0)):
        here = draw([1, 2], (64,), dtype=torch.float64, device=device).cpu()
        torch.testing.assert_close(
            here, draw([1, 2], (64,), dtype=torch.float64), rtol=0, atol=tolerance
        )


def test_seeds_and_streams_differ():
    rows = torch.cat([normal(range(20), (50,), stream) for stream in (0, 1, 2, 2**32, 2**32 + 1)])
    gaps = torch.cdist(rows.double(), rows.double()) + 100 * torch.eye(100)
    assert gaps.min() > 5  # ‖z − z'‖ is about 10 in 50 dimensions


@pytest.mark.parametrize(
    ("draw", "moments"),
    [
        (uniform, [1 / 2, 1 / 3, 1 / 4, 1 / 5]),
        (normal, [0, 1, 0, 3]),
        (rademacher, [0, 1, 0, 1]),
    ],
)
def test_moments(draw, moments):
    """First four moments of 2e6 draws within five standard errors."""
    x = draw(range(2000), (1000,), 3, dtype=torch.float64).flatten()
    for power, expected in enumerate(moments, start=1):
        values = x**power
        error = values.std() / math.sqrt(len(x))
        assert abs(values.mean() - expected) <= 5 * error + 1e-12


def test_normal_has_the_normal_distribution_function():
    """Kolmogorov's statistic of 1e6 draws, whose 99.9 % point is 1.95."""
    x = normal(range(1000), (1000,), 4, dtype=torch.float64).flatten().sort().values
    steps = torch.arange(1, len(x) + 1, dtype=torch.float64) / len(x)
    distance = (torch.special.ndtr(x) - steps).abs().max()
    assert distance * math.sqrt(len(x)) < 1.95


def test_neighbours_do_not_correlate():
    """Within a pair, between pairs, between seeds and between streams, within five errors."""
    x, other = (normal(range(1000), (1000,), stream, dtype=torch.float64) for stream in (0, 1))
    pairs = (
        (x[:, :-1], x[:, 1:]),
        (x[:, :-2], x[:, 2:]),
        (x[:-1], x[1:]),
        (x, other),
        (x[:, ::2].square(), x[:, 1::2].square()),
    )
    for a, b in pairs:
        correlation = torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(a.numel())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniform_reaches_neither_end_in_any_dtype(dtype, monkeypatch):
    ends = torch.tensor([[0, 2**32 - 1]])
    monkeypatch.setattr("ctrlgen.rows.seeds._words", lambda *_: ends)
    low, high = uniform([0], (2,), dtype=dtype)[0]
    assert 0 < low < 1e-4 and 0.99 < high < 1


def test_dtypes(dtype):
    for draw in (uniform, normal, rademacher):
        assert draw([0], (3,), dtype=dtype).dtype == dtype
        torch.testing.assert_close(
            draw([0, 1], (33,), dtype=dtype).double(),
            draw([0, 1], (33,), dtype=torch.float64),
            rtol=torch.finfo(dtype).eps,
            atol=0,
        )


@pytest.mark.parametrize(
    "seeds",
    [
        [],
        [-1],
        [2**63],
        [0.5],
        [True],
        ["1"],
        torch.tensor([-3, 1]),
        torch.tensor([1.0]),
        torch.tensor(1),
        torch.tensor([[1]]),
        torch.tensor([1], dtype=torch.int32),
    ],
)
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds: expected"):
        as_seeds(seeds)


def test_seeds_of_any_kind():
    expected = torch.tensor([0, 1, 2**63 - 1])
    assert torch.equal(as_seeds([0, 1, 2**63 - 1]), expected)
    assert torch.equal(as_seeds(expected), expected)
    assert torch.equal(as_seeds(range(3)), torch.arange(3))


def test_a_number_where_a_sequence_belongs_is_named() -> None:
    """Not "'int' object is not iterable"."""
    prior = Prior(Flow(lambda x, t: -x, CondOT()), Gaussian((3,)))
    cost = Reversed(torch.zeros(4, 3))
    x = torch.zeros(4, 3)
    wrong = r"seeds: expected integers, one per sample, got 4; range\(4\) has so many"
    for take in (
        lambda: prior.sample(4),  # type: ignore[arg-type]
        lambda: prior.start(4),  # type: ignore[arg-type]
        lambda: prior.source.sample(4),  # type: ignore[arg-type]
        lambda: DFlow()(prior, cost, seeds=4),  # type: ignore[arg-type]
        lambda: DPS()(prior, cost, seeds=4),  # type: ignore[arg-type]
        lambda: log_likelihood(prior, x, Euler(2), seeds=4),  # type: ignore[arg-type]
        lambda: measure(OPERATORS["denoise"](), torch.zeros(4, 1, 2, 2), 0.1, seeds=4),  # type: ignore[arg-type]
        lambda: normal(4, (2,)),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=wrong):
            take()
    assert prior.flow.evaluations.forward == 0


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: Gaussian(3), "shape"),  # type: ignore[arg-type]
        (lambda: Euler(grid=3), "grid"),  # type: ignore[arg-type]
        (lambda: Times(0.5), "at"),  # type: ignore[arg-type]
        (lambda: Adam(betas=0.9), "betas"),  # type: ignore[arg-type]
        (lambda: MaskedGaussian(4, 3), "mask"),  # type: ignore[arg-type]
    ],
)
def test_so_it_is_wherever_a_sequence_is_taken(build: Callable[[], object], name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        build()


# ------------------------------------------------------------------ the compiled cipher

COUNTER = tuple(torch.arange(k, k + 5).unsqueeze(0) for k in (0, 9, 2**31, 2**32 - 6))
KEY = tuple(torch.tensor([[k], [k + 1], [2**32 - 1]]) for k in (3, 2**31))


def test_the_cipher_compiles_whole_and_keeps_its_bits(monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda *args, **kwargs: compiler(*args, **kwargs, backend="aot_eager")
    )
    cipher = Cipher()
    for rows, count in ((3, 5), (2, 4), (3, 2)):
        counter = tuple(word[:, :count] for word in COUNTER)
        key = tuple(word[:rows] for word in KEY)
        for one, other in zip(cipher.fused(counter, key), philox(counter, key), strict=True):
            assert torch.equal(one, other)
    assert not cipher.failed


@pytest.mark.parametrize("fault", ["absent", "breaks", "other bits"])
def test_without_a_good_compiler_the_plain_cipher_serves(monkeypatch, fault):
    def compiler(function, **_):
        if fault == "absent":
            raise RuntimeError("no compiler")

        def compiled(counter, key):
            if fault == "breaks":
                raise OSError("cannot write")
            return [word + 1 for word in function(counter, key)]

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    cipher = Cipher()
    for one, other in zip(cipher.fused(COUNTER, KEY), philox(COUNTER, KEY), strict=True):
        assert torch.equal(one, other)
    assert cipher.failed


def test_a_draw_takes_few_operations():
    """Most of what a step launches beside the network is this: it does not grow unseen."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            self.calls += 1
            return operation(*args, **(kwargs or {}))

    with Count() as count:
        normal(torch.tensor([1, 2]), (6,))
    assert count.calls <= 160
