"""The image processor of kaseg: images to `pixel_values`, masks to `labels`, logits back to masks.

The file is flat and imports only flat files beside it, so that it can lie in a Hub repository beside the weights and be
run from there with `trust_remote_code=True`.
"""

import math
import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    load_image,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import logging

from .checkpoints import resolve
from .loading_errors import explained_loading
from .masks import argmax_resized, require_no_nan, resize_logits
from .pixels import (
    VOID,
    Normalization,
    as_tensor,
    channels_first,
    check_same_size,
    class_ids,
    decoded,
    rgb_of_tensor,
    single_images,
    to_rgb,
    upright,
)

logger = logging.get_logger(__name__)

# What lies in a preprocessor_config.json beside options.
_NO_OPTIONS = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")
# Options of transformers that would change nothing here.
_WITHOUT_EFFECT = ("do_center_crop", "crop_size", "image_seq_length")
# Options that change nothing unless another one is on.
_SWITCH_OF = {"size": "do_resize", "resample": "do_resize", "pad_size": "do_pad", "size_divisor": "do_pad"} | {
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
}


class KASegImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """The options of [`KASegImageProcessor`] beyond those every `transformers` image processor has."""

    ignore_index: int
    size_divisor: int | None


class KASegImageProcessor(TorchvisionBackend):
    r"""Prepares images and masks for [`KASegModel`] and turns its logits into masks.

    By default nothing is resized, since the models take any input size: values are divided by 255 and normalized with
    the ImageNet mean and standard deviation.

    Images may be PIL images of any mode (gray, `LA`, `RGBA`, palette, 16-bit gray, CMYK; EXIF orientation is applied),
    numpy arrays (H, W) or (H, W, C), torch tensors (H, W) or (C, H, W), batches and lists of these, and what
    `transformers.image_utils.load_image` opens from a string. The channels of an array are looked for at the customary
    end (last for numpy, first for torch), then at the other one; `input_data_format` overrules this.

    Masks become int64 with the same values: palette images keep their indices, and resizing takes the nearest pixel,
    measured between pixel centers as PIL does.

    Args:
        do_convert_rgb (`bool`, defaults to `True`): Make three 8-bit channels: gray is repeated, alpha dropped, 16-bit
            unsigned values are divided by 257. With `False` channels and values stay (for models with another
            `num_channels`); `image_mean` and `image_std` then need one entry per channel.
        do_resize (`bool`, defaults to `False`): Resize to `size`.
        size (`dict[str, int]`, *optional*): `{"height": h, "width": w}`, `{"shortest_edge": s}` or
            `{"shortest_edge": s, "longest_edge": l}`, in pixels.
        resample (`PILImageResampling`, defaults to `BILINEAR`): Filter for resizing images, antialiased.
        do_rescale (`bool`, defaults to `True`): Multiply by `rescale_factor` (`float`, defaults to 1/255).
        do_normalize (`bool`, defaults to `True`): Subtract `image_mean` and divide by `image_std` (`float` or
            `list[float]`, per channel, for values in 0..1; ImageNet's by default).
        do_pad (`bool`, defaults to `False`): Pad at the bottom and at the right, with 0 after normalization
            (`ignore_index` in labels), to the batch's largest height and width or to `pad_size`
            (`{"height": h, "width": w}`). For training: the logits of a padded image cover the padding too, and the
            global pooling in the student's head sees it.
        size_divisor (`int`, *optional*): Round the padded height and width up to multiples of this.
        ignore_index (`int`, defaults to 255): The void label. Masks are refused with any other from 0 to 254, which may
            be classes.

    Raises:
        ValueError: an option that is unknown or would change nothing (`do_reduce_labels`, `crop_size`, `size` without
            `do_resize=True`, ...).

    Example:

    ```python
    >>> from PIL import Image
    >>> from kaseg import KASegImageProcessor
    >>> processor = KASegImageProcessor()
    >>> inputs = processor(Image.new("RGB", (64, 48)), Image.new("L", (64, 48)), return_tensors="pt")
    >>> inputs["pixel_values"].shape, inputs["labels"].shape
    (torch.Size([1, 3, 48, 64]), torch.Size([1, 48, 64]))

    ```
    """

    valid_kwargs = KASegImageProcessorKwargs

    do_convert_rgb = True
    do_resize = False
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_pad = False
    ignore_index = VOID

    def __init__(self, **kwargs: Any) -> None:
        unknown = [name for name in kwargs if name not in self.valid_kwargs.__annotations__ and name not in _NO_OPTIONS]
        # The files of other processors name what they do not do.
        if asked := [name for name in unknown if kwargs[name] not in (None, False)]:
            raise ValueError(
                f"KASegImageProcessor has no {', '.join(sorted(asked))}: leave it out. Another image processor "
                "becomes one by KASegImageProcessor.of(processor), if it can give the same pixel values and labels."
            )
        _refuse_switched_off(kwargs, self)
        super().__init__(**{name: value for name, value in kwargs.items() if name not in unknown})
        _refuse_without_effect(vars(self))

    @classmethod
    def of(cls, processor: Any) -> "KASegImageProcessor":
        """Makes a KASegImageProcessor with the pixel values and labels of another image processor of transformers, but
        without its resizing, cropping and padding; a KASegImageProcessor is returned as it is.

        Raises:
            ValueError: The other one reads BGR, shifts labels (`do_reduce_labels`) or makes other pixel values than its
                options say.
        """
        if isinstance(processor, cls):
            return processor
        name = type(processor).__name__
        if getattr(processor, "do_reduce_labels", False):
            raise ValueError(
                f"{name} has do_reduce_labels=True, which shifts labels after the dataset's label map has made train "
                "ids of them: set it to False, and let the dataset map raw value 0 to void (label_space=)."
            )
        normalization = Normalization.of_processor(processor)
        if normalization.flip_channels:
            raise ValueError(
                f"{name} gives BGR (do_flip_channel_order=True), and kaseg trains on RGB: pass "
                "processing_class=KASegImageProcessor(image_mean=..., image_std=...), or set do_flip_channel_order to "
                "False."
            )
        return cls(image_mean=list(normalization.mean), image_std=list(normalization.std))

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in `transformers`; an option that there is not is refused."""
        if not kwargs.get("return_unused_kwargs"):
            loading = ("return_unused_kwargs", "code_revision", "trust_remote_code", "use_fast", "backend")
            options = {name: value for name, value in kwargs.items() if name not in loading and name[0] != "_"}
            _refuse_switched_off(options, SimpleNamespace(**image_processor_dict))
            return super().from_dict({**image_processor_dict, **options})
        return super().from_dict(image_processor_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "KASegImageProcessor":
        """As in `transformers`; knows the shipped checkpoints by name."""
        name = resolve(pretrained_model_name_or_path)
        with explained_loading(name, kwargs.get("revision"), kwargs.get("cache_dir")):
            if "_from_pipeline" in kwargs:  # which passes the model's options, such as dtype, too
                return super().from_pretrained(name, return_unused_kwargs=True, **kwargs)[0]
            return super().from_pretrained(name, **kwargs)

    def preprocess(  # type: ignore[override]
        self, images: Any, segmentation_maps: Any = None, **kwargs: Unpack[KASegImageProcessorKwargs]
    ) -> BatchFeature:
        """Makes the model's inputs; calling the processor does the same.

        Args:
            images: One image or several, see the class.
            segmentation_maps: One mask of class ids per image: PIL images of one channel, integer arrays or tensors
                (H, W), a batch (B, H, W), or paths.
            kwargs: Any option of the class, for this call only; also `return_tensors` (`"pt"`, `"np"` or `None` for
                lists), `input_data_format` and `device`.

        Returns:
            `pixel_values`, float32 (B, C, H, W), and with masks `labels`, int64 (B, H, W).

        Raises:
            ValueError: Images and masks differ in number or size, channels or the range of values do not fit, an option
                would change nothing, or the sizes in the batch differ and neither resizing nor padding makes them
                equal.
        """
        _refuse_switched_off(kwargs, self)
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self,
        images: Any,
        segmentation_maps: Any,
        *,
        do_convert_rgb: bool | None,
        input_data_format: str | ChannelDimension | None,
        return_tensors: Any,
        do_pad: bool | None,
        pad_size: SizeDict | None,
        size_divisor: int | None,
        ignore_index: int,
        device: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        _refuse_without_effect(kwargs)
        reading = {"do_convert_rgb": do_convert_rgb, "input_data_format": input_data_format, "device": device}
        tensors = self._prepare_images(images, kwargs, **reading)
        shared = {**kwargs, "do_pad": False, "pad_size": None, "return_tensors": None}
        values = self._preprocess(tensors, **shared)["pixel_values"]
        data = {"pixel_values": [image.to(torch.float32) for image in values]}
        if segmentation_maps is not None:
            if 0 <= ignore_index < 255:
                raise ValueError(
                    f"ignore_index={ignore_index} may be a class: void is 255 for KASegModel, its trainers and scores. "
                    "Leave ignore_index out (negative values are for losses of your own)."
                )
            maps = _prepare_maps(segmentation_maps, tensors)
            as_is = {"do_rescale": False, "do_normalize": False, "resample": tvF.InterpolationMode.NEAREST_EXACT}
            data["labels"] = self._preprocess(maps, **{**shared, **as_is})["pixel_values"]
        if do_pad:
            target = _padded_size(data["pixel_values"], pad_size, size_divisor)
            for name, value in (("pixel_values", 0), ("labels", ignore_index)):
                if name in data:
                    data[name] = self.pad(data[name], pad_size=target, fill_value=value)
        elif return_tensors is not None:
            _check_stackable(data["pixel_values"])
        if "labels" in data:
            data["labels"] = [labels.squeeze(0) for labels in data["labels"]]
        return BatchFeature(data=data, tensor_type=return_tensors)

    def resize(self, image: torch.Tensor, size: SizeDict, *args: Any, **kwargs: Any) -> torch.Tensor:
        _check_resizing(image.shape[-2:], size)
        return super().resize(image, size, *args, **kwargs)

    def rescale_and_normalize(  # type: ignore[override]
        self,
        images: torch.Tensor,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float] | None,
        image_std: float | Sequence[float] | None,
    ) -> torch.Tensor:
        if not do_rescale and not do_normalize:
            return images
        options = (do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        return Normalization.of_options(*options, num_channels=images.shape[1])(images)

    def _prepare_images(self, images: Any, options: Mapping[str, Any], **reading: Any) -> list[torch.Tensor]:
        mean = options.get("image_mean")
        expected = len(mean) if options.get("do_normalize") and isinstance(mean, (list, tuple)) else None
        tensors = []
        for index, image in enumerate(single_images(images, single_ndims=(2, 3))):
            try:
                tensor = self.process_image(image, num_channels=expected, **reading)
                _check_values(tensor, options, reading["do_convert_rgb"])
            except ValueError as error:
                raise ValueError(f"image {index} of the batch: {error}") from error
            if options.get("do_rescale") and tensor.is_floating_point() and tensor.max() <= 1:
                logger.warning_once(
                    "An image of floating point values in 0..1 is rescaled again; pass do_rescale=False for those."
                )
            tensors.append(tensor)
        if not tensors:
            raise ValueError("no images were given")
        return tensors

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: Any = None,
        num_channels: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Makes a tensor (C, H, W) of one image: uint8 where it was uint8, otherwise a float. A ValueError if the image
        is empty, its layout cannot be told, or it does not end up with `num_channels`."""
        if isinstance(image, (str, os.PathLike)):
            # load_image would clip 16-bit gray.
            name = os.fspath(image)
            image = decoded(name, f"The image {name}") if os.path.isfile(name) else load_image(name)
        if isinstance(image, Image.Image):
            image = np.array(to_rgb(image) if do_convert_rgb else upright(image))
            input_data_format = ChannelDimension.LAST
        channels_end = 0 if isinstance(image, torch.Tensor) else -1
        tensor = as_tensor(image)
        if tensor.numel() == 0:
            raise ValueError(f"the image is empty, its shape is {tuple(tensor.shape)}")
        if tensor.ndim == 3 and input_data_format is not None:
            tensor = tensor.movedim(-1, 0) if input_data_format == ChannelDimension.LAST else tensor
        else:
            plausible = (1, 3, 4) if do_convert_rgb else () if num_channels is None else (num_channels,)
            tensor = channels_first(tensor, channels_end, plausible)
        tensor = rgb_of_tensor(tensor) if do_convert_rgb else tensor
        if num_channels is not None and tensor.shape[0] != num_channels:
            raise ValueError(
                f"it has {tensor.shape[0]} channels, but image_mean has {num_channels} entries: give image_mean and "
                "image_std one entry per channel, or set do_convert_rgb=True for RGB images"
            )
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        return tensor.contiguous().to(device)

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """Turns the model's outputs into masks: bilinear resizing (`align_corners=False`) of the logits, then argmax.

        Images are done one after the other and in strips ([`~kaseg.masks.argmax_resized`]).

        Args:
            outputs: Anything with `logits` (B, num_labels, h, w).
            target_sizes: One (height, width) per image, usually its original size; also a tensor (B, 2). `None` leaves
                the masks at the size of the logits.
            return_segmentation_scores: Also give the resized logits: 4 * classes * height * width bytes per image.

        Returns:
            One int64 tensor (height, width) of class ids per image; or, with `return_segmentation_scores=True`, one
            `SemanticSegmentationPostProcessorOutput` each with `segmentation` and `segmentation_scores` (num_labels,
            height, width).

        Raises:
            ValueError: `target_sizes` has another length than the batch, or the logits are of one class alone or hold
                NaN.
        """
        logits = require_no_nan(outputs.logits)
        if logits.shape[1] < 2:
            raise ValueError("logits of one class give one mask whatever the image: train a model of two classes.")
        sizes: list[Any] = [None] * len(logits)
        if target_sizes is not None:
            sizes = [(int(height), int(width)) for height, width in target_sizes]
        if len(sizes) != len(logits):
            raise ValueError(f"target_sizes has {len(sizes)} entries for a batch of {len(logits)}: one each is needed")
        if self.do_pad and target_sizes is not None:
            logger.warning_once(
                "This processor pads (do_pad=True), and logits of padded images cover the padding: the masks are right "
                "only for images that needed none. Call the processor with do_pad=False for inference."
            )
        results = []
        for scores, size in zip(logits, sizes, strict=True):
            if return_segmentation_scores:
                scores = scores if size is None else resize_logits(scores[None], size)[0]
                data = {"segmentation": scores.argmax(dim=0), "segmentation_scores": scores}
                results.append(SemanticSegmentationPostProcessorOutput(data=data))
            else:
                results.append(scores.argmax(dim=0) if size is None else argmax_resized(scores[None], size)[0])
        return results


def pixel_values_of(processor: Any, image: Image.Image) -> torch.Tensor:
    """Makes (1, C, h, w), float32, of a whole PIL image of any mode, as evaluation, prediction and cards do: not padded
    or cropped, since a mask has to cover the image, and RGB unless the processor keeps channels as they are."""
    keeps_channels = isinstance(processor, KASegImageProcessor) and not processor.do_convert_rgb
    image = upright(image) if keeps_channels else to_rgb(image)
    return processor(image, do_pad=False, do_center_crop=False, return_tensors="pt")["pixel_values"]


def _refuse_switched_off(given: Mapping[str, Any], settings: Any) -> None:
    """A ValueError for options whose switch is off in `settings` and not given: whoever gives both means it."""
    for name, switch in _SWITCH_OF.items():
        if given.get(name) is not None and switch not in given and not getattr(settings, switch, None):
            raise ValueError(f"KASegImageProcessor does nothing with {name} without {switch}=True: give both or none")


def _check_values(tensor: torch.Tensor, options: Mapping[str, Any], is_rgb: bool | None) -> None:
    """A ValueError for values that no pixel has: NaN, infinity, and in RGB that is rescaled others than 0..255."""
    if tensor.dtype == torch.uint8:
        return
    low, high = (float(value) for value in tensor.aminmax())
    if not math.isfinite(low + high):
        raise ValueError("it holds NaN or infinite values: replace them, or leave the image out")
    most = max(255.0, 1 / (options.get("rescale_factor") or 1))
    if is_rgb and options.get("do_rescale") and (low < 0 or high > most):
        raise ValueError(
            f"its values ({low:g} to {high:g}) are not in 0..{most:g}: make them so (16-bit images as uint16 are), or "
            "pass do_rescale=False for values in 0..1, and do_normalize=False, too, for those that are normalized"
        )


def _check_resizing(image: Sequence[int], size: SizeDict) -> None:
    """A ValueError for a strip of which resizing would leave nothing, or make an image that fills the memory."""
    if not size.shortest_edge:
        return
    short, long = sorted(image)
    scale = min(size.shortest_edge / short, (size.longest_edge or math.inf) / long)
    too_large = scale > 1 and short * long * scale**2 > (Image.MAX_IMAGE_PIXELS or math.inf)
    if too_large or round(short * scale) < 1:
        raise ValueError(
            f"an image of (height, width) {tuple(image)} cannot be resized to {dict(size)}: its edges would have "
            f"{short * scale:.0f} and {long * scale:.0f} pixels. Cut it into parts, or leave it out"
        )


def _refuse_without_effect(options: Mapping[str, Any]) -> None:
    if options.get("do_center_crop"):
        raise ValueError("KASegImageProcessor does not crop: crop before, or use do_resize or do_pad")
    for name in _WITHOUT_EFFECT:
        if options.get(name) not in (None, False):
            raise ValueError(f"KASegImageProcessor does nothing with {name}: leave it out")
    if options.get("data_format") not in (None, ChannelDimension.FIRST):
        raise ValueError(f"data_format is {options['data_format']!r}, but pixel_values are always (B, C, H, W)")


def _prepare_maps(segmentation_maps: Any, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Makes one int64 tensor (1, H, W) per mask, with the values untouched."""
    masks = single_images(segmentation_maps, single_ndims=(2,))
    maps = [class_ids(mask, f"segmentation map {index}") for index, mask in enumerate(masks)]
    if len(maps) != len(images):
        raise ValueError(f"{len(maps)} segmentation maps were given for {len(images)} images: give one for each")
    for index, (image, labels) in enumerate(zip(images, maps, strict=True)):
        image_size, label_size = ((tensor.shape[-1], tensor.shape[-2]) for tensor in (image, labels))
        check_same_size(image_size, label_size, where=f"segmentation map {index}: ")
    return maps


def _padded_size(images: list[torch.Tensor], pad_size: SizeDict | None, size_divisor: int | None) -> SizeDict:
    sides = [max(image.shape[axis] for image in images) for axis in (-2, -1)]
    if pad_size is not None and pad_size.height and pad_size.width:
        sides = [pad_size.height, pad_size.width]
    height, width = (math.ceil(side / (size_divisor or 1)) * (size_divisor or 1) for side in sides)
    return SizeDict(height=height, width=width)


def _check_stackable(images: list[torch.Tensor]) -> None:
    sizes = sorted({tuple(image.shape[-2:]) for image in images})
    if len(sizes) > 1:
        shown = ", ".join(map(str, sizes[:4])) + (", ..." if len(sizes) > 4 else "")
        raise ValueError(
            f"the images of this batch end up with different sizes (height, width) {shown} and cannot be stacked: pass "
            'do_pad=True, or do_resize=True with size={"height": ..., "width": ...}, or return_tensors=None for lists'
        )


__all__ = ["KASegImageProcessor", "pixel_values_of", "to_rgb", "upright"]
