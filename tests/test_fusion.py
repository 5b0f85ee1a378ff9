import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

from kaseg.fusion import fold_batch_norm


class _StandardizedConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class _Network(nn.Module):
    """Pairs that fold, and look-alikes that must not."""

    def __init__(self) -> None:
        super().__init__()
        self.folds = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.folds_with_activation = nn.Sequential(
            nn.Conv2d(4, 4, 1, groups=2), BatchNormAct2d(4, act_layer=nn.LeakyReLU)
        )
        self.read_twice, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.returned, self.norm_of_returned = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.called_twice, self.norm_1, self.norm_2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.standardized = nn.Sequential(_StandardizedConv(4, 4, 3), nn.BatchNorm2d(4))
        self.after_relu = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.folds_with_activation(self.folds(x))
        x = self.read_twice(x)
        x = self.norm(x) + x
        returned = self.returned(x)
        x = self.norm_of_returned(returned)
        x = self.norm_2(self.called_twice(self.norm_1(self.called_twice(x))))
        return self.after_relu(F.relu(self.standardized(x))), returned


def test_only_what_nothing_else_reads_is_folded() -> None:
    model = _Network().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    image = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    before = model(image)
    assert fold_batch_norm(model, (1, 3, 9, 9)) == 2
    torch.testing.assert_close(model(image), before)
    left = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["norm", "norm_of_returned", "norm_1", "norm_2", "standardized.1", "after_relu.2"]
    assert isinstance(model.folds_with_activation[1][-1], nn.LeakyReLU)
    assert fold_batch_norm(model, (1, 3, 9, 9)) == 0
