"""Universal segmentation models: class and mask queries turned into a score per class and pixel."""

from __future__ import annotations

import torch


def class_scores_from_queries(class_queries_logits: torch.Tensor, masks_queries_logits: torch.Tensor) -> torch.Tensor:
    r"""Log-scores per class and pixel of Mask2Former, MaskFormer, OneFormer and EoMT.

    With `p_q(c)` the softmax of query q over the classes and "no object", and `m_q(x)` the sigmoid of its mask, those
    models score class c at pixel x by `S_c(x) = sum_q p_q(c) m_q(x)`, "no object" left out (semantic inference of
    Cheng et al. 2021, MaskFormer, section 3.4). What is returned is `log S_c(x)`: its argmax is that of `S`, and
    its softmax over classes is `S_c(x) / sum_k S_k(x)`, so that a loss that expects logits sees the scores as
    probabilities (taking the log is our choice; a softmax of `S` itself, which lies in 0..Q, would be almost flat).

    Args:
        class_queries_logits: (B, Q, C + 1), "no object" last.
        masks_queries_logits: (B, Q, h, w).

    Returns:
        (B, C, h, w) in float32.
    """
    classes = class_queries_logits.float().softmax(dim=-1)[..., :-1]
    masks = masks_queries_logits.float().sigmoid()
    # Autocast would take the product in half precision: 8 bits of bfloat16, or nothing below 6e-8 of float16.
    with torch.amp.autocast(masks.device.type, enabled=False):
        scores = torch.einsum("bqc,bqhw->bchw", classes, masks)
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
