"""The autoencoder that compresses the teacher's tapped map into the latent space in which the student is taught."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from kaseg.finite import NotFiniteError
from kaseg.loading_errors import explained_loading


def encoder_strides(teacher_stride: int, student_stride: int) -> list[int]:
    """Strides of the encoder's three convolutions for a teacher's and a student's output stride, in pixels (our
    choice).

    Their product is `student_stride / teacher_stride` where that is 1, 2, 4 or 8: 8 -> 16 gives `[2, 1, 1]`, 4 -> 16
    `[2, 2, 1]`, 4 -> 32 `[2, 2, 2]`. A finer student gives `[1, 1, 1]`; any other ratio the nearest of these products
    (in log scale). What is left is resized where the maps are compared. No stride exceeds 2, because a 3x3 kernel with
    a larger one would leave positions of the teacher's map unread.

    Raises:
        ValueError: if a stride is below 1.
    """
    if teacher_stride < 1 or student_stride < 1:
        raise ValueError(
            f"strides must be at least 1, got teacher_stride={teacher_stride} and student_stride={student_stride}"
        )
    halvings = min(max(round(math.log2(student_stride / teacher_stride)), 0), 3)
    return [2] * halvings + [1] * (3 - halvings)


@strict
class FeatureAutoencoderConfig(PreTrainedConfig):
    """Configuration of a [`FeatureAutoencoder`].

    The paper (He et al. 2019) gives three strided convolutions in E, three transposed ones in D and the weight of the
    L1 term, printed "10e-7", which we read as 1e-7; channel widths and the single strides are our choice.

    Args:
        in_channels (`int`, defaults to 256): channels of the teacher's tapped map.
        hidden_channels (`list[int]`, *optional*): the two widths between `in_channels` and `latent_channels`. By
            default their mean rounded up to a multiple of 8, then `latent_channels`: 256 -> 192 -> 128 -> 128.
        latent_channels (`int`, defaults to 128): channels of the code.
        strides (`list[int]`, defaults to `[2, 2, 1]`): strides of the three convolutions, see [`encoder_strides`].
        sparsity_weight (`float`, defaults to 1e-7): weight alpha of the L1 norm of the code.
    """

    model_type = "kaseg_autoencoder"

    in_channels: int = 256
    hidden_channels: list[int] | tuple[int, ...] | None = None
    latent_channels: int = 128
    strides: list[int] | tuple[int, ...] = (2, 2, 1)
    sparsity_weight: float | int = 1e-7

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.strides = list(self.strides)
        if self.hidden_channels is not None:
            self.hidden_channels = list(self.hidden_channels)

    def validate_architecture(self):
        """Called by `strict` on construction, which wraps the ValueError in its
        `StrictDataclassClassValidationError`."""
        if len(self.strides) != 3 or min(self.strides) < 1:
            raise ValueError(f"strides must be three integers of at least 1, got {self.strides}")
        if self.hidden_channels is not None and len(self.hidden_channels) != 2:
            raise ValueError(f"hidden_channels must be two widths or None, got {self.hidden_channels}")
        if min(self.widths) < 1:
            raise ValueError(f"every channel width must be at least 1, got {self.widths}")
        if self.sparsity_weight < 0:
            raise ValueError(f"sparsity_weight must not be negative, got {self.sparsity_weight}")

    @property
    def widths(self) -> list[int]:
        """The four channel widths from the teacher's map to the code."""
        between = self.hidden_channels
        if between is None:
            between = [-(-(self.in_channels + self.latent_channels) // 16) * 8, self.latent_channels]
        return [self.in_channels, *between, self.latent_channels]


@dataclass
class FeatureAutoencoderOutput(ModelOutput):
    """Output of [`FeatureAutoencoder`].

    Args:
        loss (`Tensor` of shape `()`): `reconstruction_loss + sparsity_weight * sparsity_loss`, float32.
        reconstruction_loss (`Tensor` of shape `()`): mean squared error over all elements of the normalized map.
        sparsity_loss (`Tensor` of shape `()`): sum of the absolute code divided by the batch size (not weighted).
        code (`Tensor` of shape `(B, latent_channels, h', w')`): `E(features)`, non-negative.
        reconstruction (`Tensor` of shape `(B, in_channels, h, w)`): `D(E(features))`, in the scale of `features`.
    """

    loss: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    sparsity_loss: Tensor | None = None
    code: Tensor | None = None
    reconstruction: Tensor | None = None


class _DecoderLayer(nn.Module):
    """Mirror of an encoder layer: 3x3 transposed convolution to a given size, then BN and ReLU except in the last."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, last: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=last)
        # Linear at the end: some teachers' maps are signed.
        self.norm = nn.Identity() if last else nn.BatchNorm2d(out_channels)
        self.act = nn.Identity() if last else nn.ReLU(inplace=True)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.act(self.norm(self.conv(features, output_size=list(size))))


class FeatureNormalization(nn.Module):
    """Takes the mean of every channel off the teacher's map and divides all channels by one standard deviation, so that
    each counts for as much as it did (our choice).

    The statistics are measured, never trained. As built it changes nothing, bit by bit: autoencoders that were saved
    without statistics give the codes that they gave.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """The map (B, c, h, w) with a mean of 0 in every channel and a variance of 1 over all of them."""
        normalized = (features.float() - self.mean.float()[:, None, None]) / self.std.float()
        return normalized.to(features.dtype)

    def undo(self, features: Tensor) -> Tensor:
        """The map that [`~FeatureNormalization.forward`] made these (B, c, h, w) of."""
        map_of_the_teacher = features.float() * self.std.float() + self.mean.float()[:, None, None]
        return map_of_the_teacher.to(features.dtype)

    @torch.no_grad()
    def measure(self, maps: Iterable[Tensor]) -> None:
        """Take the statistics of these maps (B, c, h, w), each position of each counting alike; a NotFiniteError if one
        holds NaN or infinite numbers, a ValueError if there is none."""
        count = 0
        total = squares = torch.zeros((), dtype=torch.float64)
        for number, features in enumerate(maps):
            by_channel = features.detach().transpose(0, 1).flatten(1).to("cpu", torch.float64)
            if not by_channel.isfinite().all():
                raise NotFiniteError(
                    f"The teacher's map of image {number} holds NaN or infinite numbers, so nothing can be learned "
                    "from it. Look at the teacher's weights and at teacher_tap; a teacher in float16 may overflow."
                )
            count += by_channel.shape[1]
            total = total + by_channel.sum(1)
            squares = squares + by_channel.square().sum(1)
        if not count:
            raise ValueError("There is no map to measure.")
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).mean().sqrt()
        self.mean.copy_(mean)
        # A map that is the same everywhere has nothing to be divided by.
        self.std.copy_(std if std > 0 else torch.ones_like(std))


class FeatureAutoencoder(PreTrainedModel):
    r"""Autoencoder over the teacher's tapped map `Phi_t`; the student is later taught in the space of its code.

    E is three 3x3 convolutions, each with batch normalization and ReLU; D mirrors it with transposed convolutions to
    the very sizes E saw (45 -> 23 -> 45) and ends in a linear layer. Three strided convolutions, three transposed ones
    that mirror them, a loss of reconstruction plus alpha times the L1 norm of the code, and that E is frozen and D
    dropped afterwards are the paper's (He et al. 2019, knowledge translation); kernel sizes, widths, normalization and
    this reduction of the loss are our choice:

        loss = (1 / (B*c_t*h*w)) * sum (N(D(E(Phi_t))) - N(Phi_t))^2  +  alpha * (1 / B) * sum |E(Phi_t)|

    with alpha = `config.sparsity_weight`. Both terms are computed in float32. N is `normalization`
    ([`FeatureNormalization`], our choice), whose statistics the trainer measures: one learning rate then serves maps of
    any scale, and a reconstruction loss of 1 is that of a code that knows nothing. Before any are measured, and in
    folders that hold none, N changes nothing.

    Example:
        >>> import torch
        >>> from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig
        >>> autoencoder = FeatureAutoencoder(FeatureAutoencoderConfig(in_channels=16, latent_channels=8))
        >>> output = autoencoder(torch.randn(2, 16, 45, 33))
        >>> output.code.shape, output.reconstruction.shape
        (torch.Size([2, 8, 12, 9]), torch.Size([2, 16, 45, 33]))
        >>> autoencoder.freeze().encode(torch.randn(2, 16, 45, 33)).shape
        torch.Size([2, 8, 12, 9])
    """

    config_class = FeatureAutoencoderConfig
    config: FeatureAutoencoderConfig
    base_model_prefix = "autoencoder"
    main_input_name = "features"
    input_modalities = "image"
    # The loss is a mean over elements, so Trainer must not hand over num_items_in_batch and divide differently.
    accepts_loss_kwargs = False
    # Folders from before there were statistics.
    _keys_to_ignore_on_load_missing = [r"normalization\."]

    def __init__(self, config: FeatureAutoencoderConfig) -> None:
        super().__init__(config)
        widths, strides = config.widths, config.strides
        self.normalization = FeatureNormalization(widths[0])
        self.encoder = nn.Sequential(
            *(
                Conv2dNormActivation(c_in, c_out, 3, stride=stride)
                for c_in, c_out, stride in zip(widths[:-1], widths[1:], strides, strict=True)
            )
        )
        self.decoder: nn.ModuleList | None = nn.ModuleList(
            _DecoderLayer(widths[i + 1], widths[i], strides[i], last=i == 0) for i in (2, 1, 0)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers calls this also for weights missing from a checkpoint, whose memory is then uninitialized, so
        # everything is set; its own init functions leave alone what was loaded.
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            # A transposed convolution stores (in, out, k, k): its fan-in is what kaiming calls fan_out.
            mode = "fan_out" if isinstance(module, nn.ConvTranspose2d) else "fan_in"
            init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for name, buffer in module.named_buffers():
                (init.ones_ if name == "running_var" else init.zeros_)(buffer)
        elif isinstance(module, FeatureNormalization):
            init.zeros_(module.mean)
            init.ones_(module.std)

    @property
    def is_frozen(self) -> bool:
        """Whether [`~FeatureAutoencoder.freeze`] was called."""
        return self.decoder is None

    def encode(self, features: Tensor) -> Tensor:
        """Code of the teacher's map.

        Args:
            features (`Tensor` of shape `(B, in_channels, h, w)`): the teacher's tapped map.

        Returns:
            `Tensor` of shape `(B, latent_channels, h', w')`, non-negative.

        Raises:
            ValueError: if `features` is not `(B, in_channels, h, w)`.
        """
        self._check_features(features)
        if self.is_frozen:
            # Code that switches modules one by one does not pass through our train(): see to it here.
            self.encoder.eval()
        return self.encoder(self.normalization(features))

    def forward(self, features: Tensor) -> FeatureAutoencoderOutput:
        """Encodes, decodes and computes the loss.

        Args:
            features (`Tensor` of shape `(B, in_channels, h, w)`): the teacher's tapped map, any `h` and `w`.

        Raises:
            ValueError: if `features` is not `(B, in_channels, h, w)`.
            RuntimeError: after [`~FeatureAutoencoder.freeze`], which drops the decoder.
        """
        if self.decoder is None:
            raise RuntimeError("this FeatureAutoencoder is frozen and has no decoder: call encode(), not forward()")
        self._check_features(features)
        normalized = self.normalization(features)
        sizes, code = [], normalized
        for layer in self.encoder:
            sizes.append((code.shape[-2], code.shape[-1]))
            code = layer(code)
        reconstruction = code
        for layer, size in zip(self.decoder, reversed(sizes), strict=True):
            reconstruction = layer(reconstruction, size)
        reconstruction_loss = F.mse_loss(reconstruction.float(), normalized.float())
        sparsity_loss = code.float().abs().sum() / features.shape[0]
        return FeatureAutoencoderOutput(
            loss=reconstruction_loss + self.config.sparsity_weight * sparsity_loss,
            reconstruction_loss=reconstruction_loss,
            sparsity_loss=sparsity_loss,
            code=code,
            reconstruction=self.normalization.undo(reconstruction),
        )

    def freeze(self) -> "FeatureAutoencoder":
        """Fixes E for good and drops D from memory; save before this.

        Afterwards no parameter requires a gradient and the encoder stays in eval mode whatever `train()` is called, so
        that weights and batch normalization statistics stay bit-equal. Returns `self`.
        """
        self.decoder = None
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "FeatureAutoencoder":
        """As in `nn.Module`, but a frozen autoencoder stays in eval mode."""
        return super().train(mode and not self.is_frozen)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As in `PreTrainedModel`, from safetensors alone: pickles can run code.

        Raises:
            CheckpointError (an `OSError`): there is none, or it cannot be read; the message says what to do.
        """
        kwargs.setdefault("use_safetensors", True)
        with explained_loading(pretrained_model_name_or_path, kwargs.get("revision"), kwargs.get("cache_dir")):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in `PreTrainedModel`; the folder holds the whole autoencoder. A RuntimeError after
        [`~FeatureAutoencoder.freeze`], because the decoder's weights are gone."""
        if self.decoder is None:
            raise RuntimeError(
                f"cannot save to {save_directory}: this FeatureAutoencoder is frozen and its decoder was dropped; "
                "call save_pretrained() before freeze()"
            )
        return super().save_pretrained(save_directory, *args, **kwargs)

    def _check_features(self, features: Tensor) -> None:
        if features.ndim != 4 or features.shape[1] != self.config.in_channels:
            raise ValueError(
                f"features must have shape (B, {self.config.in_channels}, h, w) as config.in_channels says, "
                f"got {tuple(features.shape)}"
            )
