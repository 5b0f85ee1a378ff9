"""What a teacher's forward pass returns, in one form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class TeacherOutput:
    """`features` (B, c_t, h_t, w_t): the tapped map. `logits` (B, K, h, w): of the teacher's own classes, or once its
    labels were matched, of the classes `known_classes` of the student; `None` if there are none."""

    features: torch.Tensor
    logits: torch.Tensor | None


def logits_of(output: Any) -> torch.Tensor | None:
    """Logits (B, C, h, w) of what a network returns, if there are any."""
    if isinstance(output, tuple | list) and output and not isinstance(output, Mapping):
        output = output[0]
    if hasattr(output, "class_queries_logits"):
        return class_scores_from_queries(output.class_queries_logits, output.masks_queries_logits)
    if isinstance(output, Mapping):
        output = output.get("logits", output.get("out"))
    elif not isinstance(output, torch.Tensor):
        output = getattr(output, "logits", None)
    return output if isinstance(output, torch.Tensor) and output.ndim == 4 else None


def class_scores_from_queries(class_queries_logits: torch.Tensor, masks_queries_logits: torch.Tensor) -> torch.Tensor:
    r"""Log-scores (B, C, h, w), float32, per class and pixel of Mask2Former, MaskFormer, OneFormer and EoMT, from their
    class logits (B, Q, C + 1), "no object" last, and mask logits (B, Q, h, w).

    With `p_q(c)` the softmax of query q over the classes and "no object", and `m_q(x)` the sigmoid of its mask, those
    models score class c at pixel x by `S_c(x) = sum_q p_q(c) m_q(x)`, "no object" left out (semantic inference of Cheng
    et al. 2021, MaskFormer, section 3.4). What is returned is `log S_c(x)`: its argmax is that of `S`, and its softmax
    over classes is `S_c(x) / sum_k S_k(x)`, so that a loss that expects logits sees the scores as probabilities (taking
    the log is our choice; a softmax of `S` itself, which lies in 0..Q, would be almost flat).
    """
    classes = class_queries_logits.float().softmax(dim=-1)[..., :-1]
    masks = masks_queries_logits.float().sigmoid()
    # Autocast would take the product in half precision: 8 bits of bfloat16, or nothing below 6e-8 of float16.
    with torch.amp.autocast(masks.device.type, enabled=False):
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks)
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
