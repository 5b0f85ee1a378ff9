import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kaseg import KASegImageProcessor
from kaseg.export import ExportOptions, ParityError
from kaseg.export.parity import check_parity, graph_inputs, parity_batches

LOGITS = ExportOptions()


def batches() -> list[np.ndarray]:
    return [np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)]


def test_the_figures() -> None:
    def run(x: np.ndarray) -> np.ndarray:
        return x * np.float32(1.0005)

    (parity,) = check_parity(nn.Identity(), run, batches(), LOGITS)
    assert parity.relative_error == pytest.approx(5e-4, rel=1e-3)
    assert parity.max_error == pytest.approx(5e-4 * np.abs(batches()[0]).max(), rel=1e-3)
    assert parity.mask_agreement == 1.0 and parity.size == (8, 8) and parity.batch == 1


@pytest.mark.parametrize("run", [lambda x: x * 1.01, lambda x: np.full_like(x, np.nan)], ids=["1 % off", "nan"])
def test_too_large_an_error_is_one(run) -> None:
    with pytest.raises(ParityError, match=r"on 1 image of 8x8 the logits differ by .* Nothing was kept"):
        check_parity(nn.Identity(), lambda x: run(x).astype(np.float32), batches(), LOGITS)


def test_another_shape_or_type_is_an_error() -> None:
    for run in (lambda x: x[:, :, :-1], lambda x: x.astype(np.float64)):
        with pytest.raises(ParityError, match="the exported file gives"):
            check_parity(nn.Identity(), run, batches(), LOGITS)


def test_masks_are_compared_pixel_by_pixel() -> None:
    class Threshold(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return (image[..., 0] > 100).to(torch.uint8)

    image = np.arange(200, dtype=np.uint8).reshape(1, 10, 20, 1)
    options = ExportOptions(output="mask")
    (parity,) = check_parity(Threshold(), lambda x: (x[..., 0] > 100).astype(np.uint8), [image], options)
    assert parity.mask_agreement == 1.0 and parity.relative_error is None and parity.size == (10, 20)
    with pytest.raises(ParityError, match=r"only 99.50 % of the pixels"):
        check_parity(Threshold(), lambda x: (x[..., 0] > 101).astype(np.uint8), [image], options)


def test_two_sizes_and_two_batch_sizes() -> None:
    pictures = [Image.new("RGB", (40, 30)), Image.new("RGB", (20, 10))]
    shapes = [batch.shape for batch in parity_batches(pictures, KASegImageProcessor(), LOGITS, ((16, 32), (17, 31)))]
    assert shapes == [(2, 3, 16, 32), (1, 3, 17, 31)]
    fixed = ExportOptions(size=(24, 48), output="mask")
    assert [batch.shape for batch in parity_batches(pictures, KASegImageProcessor(), fixed)] == [(1, 24, 48, 3)] * 2


def test_graph_inputs_are_what_the_processor_makes() -> None:
    picture, processor = Image.effect_noise((9, 7), 90).convert("RGB"), KASegImageProcessor()
    expected = processor(picture, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(graph_inputs([picture], processor, LOGITS), expected)
