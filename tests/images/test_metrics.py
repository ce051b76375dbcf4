"""Image metrics and the Frechet distance against values worked out by other means."""

from __future__ import annotations

import math

import pytest
import torch

from ctrlgen.domains.images import metrics
from ctrlgen.domains.images.classifier import load_classifier
from ctrlgen.domains.images.data import held_out
from ctrlgen.domains.images.frechet import embed, frechet_distance, load_embedder


def test_psnr_by_hand() -> None:
    x = torch.zeros(3, 1, 4, 4)
    y = x + torch.tensor([0.2, 0.02, 0.0]).view(3, 1, 1, 1)
    assert metrics.psnr(x, y).tolist() == pytest.approx([20.0, 40.0, math.inf], abs=1e-4)
    assert metrics.psnr(x, y, data_range=1.0)[0] == pytest.approx(13.9794, abs=1e-4)
    with pytest.raises(ValueError, match="shape"):
        metrics.psnr(x, y[:2])


def test_ssim_by_its_definition() -> None:
    """One 11x11 window, weighted moments written out."""
    x, y = torch.randn(2, 1, 11, 11).double(), torch.randn(2, 1, 11, 11).double()
    line = [math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)]
    weight = torch.tensor([[a * b for a in line] for b in line], dtype=torch.float64)
    weight = weight / weight.sum()
    for row, value in enumerate(metrics.ssim(x, y)):
        a, b = x[row, 0], y[row, 0]
        ma, mb = (weight * a).sum(), (weight * b).sum()
        va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
        cov = (weight * (a - ma) * (b - mb)).sum()
        c1, c2 = 0.02**2, 0.06**2
        expected = (2 * ma * mb + c1) * (2 * cov + c2)
        expected = expected / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        assert float(value) == pytest.approx(float(expected), rel=1e-9)


def test_ssim_limits_and_rows() -> None:
    images = held_out("cifar10", 4).images
    torch.testing.assert_close(metrics.ssim(images, images), torch.ones(4))
    noisy = images + 0.1 * torch.randn_like(images)
    torch.testing.assert_close(
        metrics.ssim(images, noisy)[2:3], metrics.ssim(images[2:3], noisy[2:3])
    )
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim(images[..., :8], images[..., :8])


def features(mean: float, scales: list[float], rows: int) -> torch.Tensor:
    """Rows with exactly this mean and this diagonal of the sample covariance."""
    raw = torch.randn(rows, len(scales), dtype=torch.float64)
    raw = raw - raw.mean(dim=0)
    q, _ = torch.linalg.qr(raw)
    return mean + q * torch.tensor(scales) * (rows - 1) ** 0.5


def test_frechet_distance_of_known_gaussians() -> None:
    a, b = features(0.0, [1.0, 2.0, 3.0], 40), features(0.5, [2.0, 2.0, 1.0], 60)
    expected = 3 * 0.25 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2
    assert float(frechet_distance(a, b)) == pytest.approx(expected, rel=1e-9)
    assert float(frechet_distance(b, a)) == pytest.approx(expected, rel=1e-9)
    assert abs(float(frechet_distance(a, a))) < 1e-9
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    assert float(frechet_distance(a @ turn, b @ turn)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_small_sets() -> None:
    """Fewer rows than features: padding with zero features must not change the value."""
    a, b = torch.randn(6, 5).double(), torch.randn(7, 5).double() + 1
    few = torch.nn.functional.pad(a, (0, 20)), torch.nn.functional.pad(b, (0, 20))
    torch.testing.assert_close(frechet_distance(*few), frechet_distance(a, b))
    for bad in (a[:1], a[:, :3], a[0]):
        with pytest.raises(ValueError, match="rows"):
            frechet_distance(a, bad)


def test_classifier_and_its_distance() -> None:
    images, labels, _ = held_out("mnist")
    classifier = load_classifier()
    assert float((classifier(images).argmax(dim=1) == labels).double().mean()) > 0.98
    embedder = load_embedder("FD-MNISTClassifier")
    with pytest.raises(ValueError, match="FD-MNISTClassifier"):
        load_embedder("FID")
    first, second = embed(embedder, images[:128]), embed(embedder, images[128:])
    torch.testing.assert_close(embed(embedder, images[:9], batch=4), first[:9])
    noisy = embed(embedder, images[128:] + 0.5 * torch.randn(128, 1, 28, 28))
    assert frechet_distance(first, noisy) > 2 * frechet_distance(first, second)


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*args: object, **options: object) -> None:
        raise OSError("no network")

    functional = pytest.importorskip("torchmetrics.functional.image.lpips")
    monkeypatch.setattr(functional, "learned_perceptual_image_patch_similarity", unavailable)
    images = held_out("cifar10", 2).images
    with pytest.raises(RuntimeError, match="torchvision"):
        metrics.lpips(images, images)
    import torchmetrics.image.fid as fid
    import torchmetrics.image.kid as kid

    monkeypatch.setattr(fid, "FrechetInceptionDistance", unavailable)
    monkeypatch.setattr(kid, "KernelInceptionDistance", unavailable)
    for metric in (metrics.fid, metrics.kid):
        with pytest.raises(RuntimeError, match="torch-fidelity"):
            metric(images, images)
