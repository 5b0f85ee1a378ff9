import pytest
import torch
from torch.nn import functional as F

from kaseg.distillation.adapters import AffinityAdapter, FeatureAdapter, OrthogonalAdapter


def test_feature_adapter_is_convolution_batch_norm_relu():
    features = torch.randn(3, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    adapter = FeatureAdapter(6, 4)
    weights = [p for p in adapter.parameters() if p.ndim == 4]
    assert [tuple(w.shape) for w in weights] == [(4, 6, 3, 3)]
    convolved = F.conv2d(features.double(), weights[0].double(), padding=1)
    mean, variance = convolved.mean((0, 2, 3), keepdim=True), convolved.var((0, 2, 3), keepdim=True, correction=0)
    expected = ((convolved - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(adapter(features).double(), expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in adapter.parameters()) == 4 * 6 * 9 + 2 * 4


def test_affinity_adapter_is_one_convolution():
    features = torch.randn(2, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    adapter = AffinityAdapter(6, 4)
    kernel, bias = sorted(adapter.parameters(), key=lambda p: -p.ndim)
    expected = F.conv2d(features, kernel, bias, padding=1)
    assert tuple(kernel.shape) == (4, 6, 3, 3)
    assert torch.equal(adapter(features), expected)
    assert (expected < 0).any()


@pytest.mark.parametrize(("in_channels", "out_channels"), [(12, 5), (5, 12), (6, 6)])
def test_orthogonal_adapter_stays_orthonormal_while_it_learns(in_channels: int, out_channels: int) -> None:
    torch.manual_seed(0)
    adapter = OrthogonalAdapter(in_channels, out_channels)
    before = adapter.projection.weight.detach().clone()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.05, weight_decay=0.1)
    features, wanted = torch.randn(4, in_channels, 5, 5), torch.randn(4, out_channels, 5, 5)
    for _ in range(5):
        optimizer.zero_grad()
        (adapter(features) - wanted).square().mean().backward()
        optimizer.step()
    weight = adapter.projection.weight.detach()
    short = min(in_channels, out_channels)
    gram = weight @ weight.T if out_channels == short else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(short), atol=1e-5, rtol=0)
    assert (weight - before).abs().max() > 0.01
    expected = torch.einsum("kc,bchw->bkhw", weight, features)
    torch.testing.assert_close(adapter(features), expected)
