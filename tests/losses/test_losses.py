import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kaseg.losses import LOSSES, CrossEntropyLoss, DiceLoss, OhemCrossEntropyLoss, build_loss


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (2, 4, 6, 8) and labels (2, 6, 8) with void and without class 3."""
    logits = torch.randn(2, 4, 6, 8, dtype=torch.float64).float() * 2
    labels = torch.randint(0, 3, (2, 6, 8))
    labels[0, :2] = 255
    return logits, labels


def _log_softmax(logits: torch.Tensor) -> np.ndarray:
    z = logits.double().numpy().transpose(0, 2, 3, 1).reshape(-1, logits.shape[1])
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def _valid_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    flat = labels.numpy().ravel()
    valid = flat != 255
    log_p = _log_softmax(logits)[valid]
    return -log_p[np.arange(valid.sum()), flat[valid]], flat[valid]


class TestCrossEntropy:
    def test_against_numpy(self, batch) -> None:
        losses, _ = _valid_losses(*batch)
        assert CrossEntropyLoss()(*batch).item() == pytest.approx(losses.mean(), rel=1e-5)

    def test_class_weights_against_numpy_and_torch(self, batch) -> None:
        weights = [0.5, 2.0, 1.0, 3.0]
        losses, classes = _valid_losses(*batch)
        w = np.array(weights)[classes]
        value = CrossEntropyLoss(weights)(*batch).item()
        assert value == pytest.approx((w * losses).sum() / w.sum(), rel=1e-5)
        assert value == pytest.approx(
            F.cross_entropy(*batch, weight=torch.tensor(weights), ignore_index=255).item(), rel=1e-5
        )

    @pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
    def test_a_common_normalizer_makes_parts_add_up(self, batch, weights) -> None:
        logits, labels = batch
        criterion = CrossEntropyLoss(weights)
        common = criterion.normalizer(labels)
        parts = [criterion(logits[i : i + 1], labels[i : i + 1], common) for i in range(2)]
        assert sum(parts).item() == pytest.approx(criterion(logits, labels).item(), rel=1e-6)

    def test_logits_are_resized_to_the_labels(self) -> None:
        logits, labels = torch.randn(1, 3, 4, 5), torch.randint(0, 3, (1, 13, 17))
        resized = F.interpolate(logits, size=(13, 17), mode="bilinear", align_corners=False)
        assert CrossEntropyLoss()(logits, labels) == pytest.approx(F.cross_entropy(resized, labels).item(), rel=1e-6)


class TestOhem:
    def test_against_numpy_by_threshold(self, batch) -> None:
        losses, _ = _valid_losses(*batch)
        hard = losses[np.exp(-losses) <= 0.7]
        assert len(hard) > 0.1 * len(losses)
        assert OhemCrossEntropyLoss(0.7, 0.1)(*batch).item() == pytest.approx(hard.mean(), rel=1e-5)

    def test_against_numpy_by_count(self, batch) -> None:
        losses, _ = _valid_losses(*batch)
        kept = int(0.5 * len(losses))
        expected = np.sort(losses)[-kept:].mean()
        assert OhemCrossEntropyLoss(1e-6, 0.5)(*batch).item() == pytest.approx(expected, rel=1e-5)

    def test_everything_is_plain_cross_entropy(self, batch) -> None:
        assert OhemCrossEntropyLoss(0.7, 1.0)(*batch).item() == pytest.approx(CrossEntropyLoss()(*batch).item())

    def test_bad_fractions(self) -> None:
        with pytest.raises(ValueError, match="threshold and min_kept"):
            OhemCrossEntropyLoss(threshold=0.0)


class TestDice:
    def test_against_numpy(self, batch) -> None:
        logits, labels = batch
        flat = labels.numpy().ravel()
        valid = flat != 255
        p = np.exp(_log_softmax(logits))[valid]
        y = np.eye(4)[flat[valid]]
        scores = [(2 * (p[:, c] * y[:, c]).sum() + 1) / (p[:, c].sum() + y[:, c].sum() + 1) for c in range(3)]
        assert DiceLoss()(logits, labels).item() == pytest.approx(1 - np.mean(scores), rel=1e-5)

    def test_perfect_prediction(self) -> None:
        labels = torch.randint(0, 3, (1, 8, 8))
        logits = 100.0 * F.one_hot(labels, 3).permute(0, 3, 1, 2).float()
        assert DiceLoss()(logits, labels).item() == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def test_void_pixels_do_not_matter(self, name: str, batch) -> None:
        logits, labels = batch
        changed = logits.clone()
        changed[0, :, :2] = 50.0 * torch.randn(4, 2, 8)
        criterion = build_loss(name)
        assert criterion(logits, labels).item() == pytest.approx(criterion(changed, labels).item(), rel=1e-5)

    def test_only_void_is_zero_with_zero_gradient(self, name: str) -> None:
        logits = torch.randn(1, 3, 4, 4, requires_grad=True)
        loss = build_loss(name)(logits, torch.full((1, 8, 8), 255))
        loss.backward()
        assert loss.item() == 0.0 and not logits.grad.any()

    def test_gradient_against_finite_differences(self, name: str) -> None:
        labels = torch.tensor([[[0, 1], [2, 255]]])
        logits = torch.randn(1, 3, 2, 2)
        criterion = build_loss(name)
        logits.requires_grad_(True)
        criterion(logits, labels).backward()
        step = torch.zeros_like(logits)
        step[0, 1, 0, 1] = 1e-2
        with torch.no_grad():
            slope = (criterion(logits + step, labels) - criterion(logits - step, labels)) / 2e-2
        assert logits.grad[0, 1, 0, 1].item() == pytest.approx(slope.item(), rel=2e-2, abs=1e-4)


def test_build_loss_errors() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        build_loss("focal")
    with pytest.raises(ValueError, match="Dice"):
        build_loss("dice", class_weights=[1.0, 2.0])
