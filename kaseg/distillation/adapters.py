"""The layers that carry the student's map into the teacher's latent space during distillation."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal


class FeatureAdapter(nn.Sequential):
    """Feature adapter `C_f`: 3x3 convolution (stride 1, padding 1), batch normalization, ReLU.

    The layers are the paper's (He et al. 2019, feature adaptation). The convolution has no bias because the batch
    normalization that follows would cancel it. Used in training only; the student is deployed without it.

    Shapes: the student's map `(B, in_channels, h, w)` -> `(B, out_channels, h, w)` as the code has, non-negative.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class AffinityAdapter(nn.Module):
    """Affinity adapter `C_a`: one 3x3 convolution (stride 1, padding 1).

    That the student's map passes through an adapter of its own before the affinity is taken is the paper's (He et al.
    2019, affinity distillation); its layer is our choice. The bias lets the signed output follow the common direction
    of the teacher's non-negative codes.

    Shapes: the student's map `(B, in_channels, h, w)` -> `(B, out_channels, h, w)` as the code has, signed.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=1, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class OrthogonalAdapter(nn.Module):
    """Projection by a matrix whose rows, or columns if there are fewer of these, stay orthonormal while it is trained.

    The projection of VkD (Miles et al., CVPR 2024): it keeps angles and lengths, so that it cannot learn in the
    student's place. No bias, for [`~kaseg.distillation.losses.WhitenedLoss`] centers the student's side.

    Shapes: the student's map `(B, in_channels, h, w)` -> `(B, out_channels, h, w)` as the code has, signed.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # Not the default for matrices that are no square: its Householder vectors keep signs on their diagonal, which
        # weight decay turns into zeros.
        self.projection = orthogonal(nn.Linear(in_channels, out_channels, bias=False), orthogonal_map="cayley")

    def forward(self, features: Tensor) -> Tensor:
        weight = self.projection.weight
        assert isinstance(weight, Tensor)
        return F.conv2d(features, weight[:, :, None, None])
