"""The card of an exported model."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from kaseg.checkpoints import resolve
from kaseg.markdown import escaped, table

_LIBRARIES = {"transformers": "transformers", "transformers-js": "transformers.js"}
_USES = {
    **{
        format: ("python", f'from kaseg import {name}\n\nmodel = {name}.from_pretrained("FOLDER_OR_HUB_ID")')
        for format, name in (
            ("onnx", "KASegOnnxModel"),
            ("openvino", "KASegOpenVINOModel"),
            ("litert", "KASegLiteRTModel"),
        )
    },
    "transformers": (
        "python",
        'from transformers import pipeline\n\nsegmenter = pipeline("image-segmentation", "FOLDER_OR_HUB_ID")\n'
        'masks = segmenter("street.jpg")',
    ),
    "transformers-js": (
        "js",
        "import { pipeline } from '@huggingface/transformers';\n\n"
        "// dtype: 'fp32', 'fp16', or 'q8' if it is there\n"
        "const segmenter = await pipeline('image-segmentation', 'HUB_ID', { dtype: 'fp16' });\n"
        "const masks = await segmenter('street.jpg');",
    ),
}


def write_card(folder: Path, facts: dict[str, Any], source: str | Path | None) -> None:
    """Write `README.md`: what this is an export of, its figures (`facts`, what `export.json` holds), how it is used;
    the license is that of the card of the model (`source`), if it lies here."""
    name = facts["model"]
    card_data = ModelCardData(
        library_name=_LIBRARIES.get(facts["format"], "kaseg"),
        pipeline_tag="image-segmentation",
        license=license_of(source),
        base_model=name if name and "/" in name else None,
        tags=["kaseg", facts["format"], facts["dtype"]],
    )
    title = f"# {escaped(name or 'KASegModel')}: {facts['format']}, {facts['dtype']}"
    text = "\n\n".join([title, *_paragraphs(facts)]) + "\n"
    ModelCard(f"---\n{card_data.to_yaml()}\n---\n\n{text}").save(folder / "README.md")


def license_of(source: str | Path | None) -> str | None:
    """The license that the card of a model's folder names; `None` if there is none."""
    card = None if source is None else Path(resolve(source)) / "README.md"
    return ModelCard.load(card).data.license if card is not None and card.is_file() else None


def _paragraphs(facts: dict[str, Any]) -> list[str]:
    size = "any size, in batches" if facts["size"] is None else f"{facts['size'][0]}x{facts['size'][1]}, one at a time"
    if facts["format"] == "transformers" and facts["size"] is not None:
        size = f"any size, resized to {facts['size'][0]}x{facts['size'][1]} by the image processor"
    given = (
        "normalized `pixel_values` in, `logits` at the model's stride out"
        if facts["output"] == "logits"
        else f"`image` (batch, height, width, channels; {facts['image_dtype']}, 0..255) in, `mask` of class ids out"
    )
    paragraphs = [f"Exported by kaseg {facts['versions']['kaseg']}. Images: {size}. {given[0].upper()}{given[1:]}."]
    header = ("computed in", "images", "relative error of the logits", "same class")
    paragraphs.append(f"Compared with the float32 model:\n\n{table(header, map(_row, facts['parity']))}")
    if (quantization := facts.get("quantization")) is not None:
        on = f" on {escaped(quantization['validation'])}" if quantization["validation"] else ""
        paragraphs.append(
            f"Mean IoU{on}: {100 * quantization['mean_iou_before']:.2f} before and "
            f"{100 * quantization['mean_iou_after']:.2f} after quantization (calibrated on "
            f"{quantization['calibration_samples']} images, {quantization['calibration_method']})."
        )
    if facts["format"] in _USES:
        language, code = _USES[facts["format"]]
        paragraphs.append(f"```{language}\n{code}\n```")
    return paragraphs


def _row(parity: dict[str, Any]) -> tuple[str, ...]:
    (height, width), error = parity["size"], parity["relative_error"]
    shown = "–" if error is None else f"{error:.1e}"
    return parity["dtype"], f"{parity['batch']} x {height}x{width}", shown, f"{100 * parity['mask_agreement']:.2f} %"
