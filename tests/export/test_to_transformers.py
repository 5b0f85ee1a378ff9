"""What `kaseg export --format transformers` writes: it is loaded by transformers where kaseg cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy import vary_batch_norm
from transformers import SegformerImageProcessor

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data.scenes import render_scene
from kaseg.export import ExportOptions, ParityError, export_model
from kaseg.export import formats as formats_file
from kaseg.export import to_transformers as to_transformers_file

SIZES = ((64, 96), (65, 97))
WITHOUT_KASEG = """
import sys
sys.modules["kaseg"] = sys.modules["timm"] = None  # importing them fails
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline
for folder in sys.argv[1:]:
    network = AutoModelForSemanticSegmentation.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    image = Image.open(folder + ".png")
    outputs = network(**processor(image, return_tensors="pt"))
    mask = processor.post_process_semantic_segmentation(outputs, [(image.height, image.width)])[0].numpy()
    by_pipeline = np.zeros_like(mask)
    for entry in pipeline("image-segmentation", model=network, image_processor=processor)(image):
        by_pipeline[np.asarray(entry["mask"]) > 0] = network.config.label2id[entry["label"]]
    np.savez(folder + ".npz", mask=mask, by_pipeline=by_pipeline, kind=type(network).__name__)
"""


def student(**kwargs) -> KASegModel:
    torch.manual_seed(0)
    names = {index: f"class {index}" for index in range(5)}
    config = {"backbone": "mobilenetv2_035", "output_stride": 16, "id2label": names, **kwargs}
    model = vary_batch_norm(KASegModel(KASegConfig(**config)).eval())
    torch.nn.init.normal_(model.classifier.weight)
    return model


def test_transformers_alone_gives_our_masks(tmp_path: Path) -> None:
    processor = KASegImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25])
    picture = Image.fromarray(render_scene(0, 0)[0])
    expected = {}
    # Any size; and a model that pads, whose images the processor resizes.
    for name, size, shown in (("free", None, (97, 65)), ("aligned", (64, 96), (96, 64))):
        model = student(pad_to_stride=size is not None, tf_padding=True, batch_norm_eps=1e-3)
        inputs = processor(picture.resize(shown), return_tensors="pt")
        with torch.no_grad():  # so that no class has it all
            model.classifier.bias -= model(**inputs).logits.mean(dim=(0, 2, 3))
            outputs = model(**inputs)
        expected[name] = processor.post_process_semantic_segmentation(outputs, [shown[::-1]])[0].numpy()
        picture.resize(shown).save(tmp_path / f"{name}.png")
        export_model(model, processor, tmp_path / name, ExportOptions("transformers", size=size), parity_sizes=SIZES)
    folders = [str(tmp_path / name) for name in expected]
    subprocess.run([sys.executable, "-c", WITHOUT_KASEG, *folders], check=True, capture_output=True, text=True)
    for name, mask in expected.items():
        found = np.load(tmp_path / f"{name}.npz")
        assert found["kind"] == "MobileNetV2ForSemanticSegmentation" and len(np.unique(mask)) > 2
        assert (found["mask"] == mask).mean() >= 0.999 and (found["by_pipeline"] == found["mask"]).all()


def test_who_may_read_the_config_may_read_the_weights(tmp_path: Path) -> None:
    export_model(student(), KASegImageProcessor(), tmp_path / "export", ExportOptions("transformers"))
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "export").iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {modes["config.json"]}


@pytest.mark.parametrize(
    "padded, settings, size, message",
    [
        (False, {"do_pad": True}, None, "do_pad=True"),
        (False, {"do_center_crop": True}, None, "do_center_crop=True"),
        (True, {}, None, "--size HEIGHT,WIDTH"),
        (True, {}, (64, 97), "not 64,97"),
    ],
)
def test_what_transformers_has_not_is_refused(padded: bool, settings, size, message: str, tmp_path: Path) -> None:
    model, processor = student(pad_to_stride=padded), KASegImageProcessor()
    for name, value in settings.items():
        setattr(processor, name, value)
    with pytest.raises(ValueError, match=message):
        export_model(model, processor, tmp_path / "out", ExportOptions("transformers", size=size), parity_sizes=SIZES)
    assert not (tmp_path / "out").exists()


def test_a_processor_that_does_otherwise_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = SegformerImageProcessor(do_resize=False, image_mean=[0.4, 0.5, 0.5])
    monkeypatch.setattr(to_transformers_file, "plain_processor", lambda *args: other)
    with pytest.raises(ParityError, match="does not prepare images"):
        export_model(student(), KASegImageProcessor(), tmp_path / "out", ExportOptions("transformers"))
    assert not (tmp_path / "out").exists()


def test_logits_that_are_slightly_other_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = formats_file.load_transformers
    monkeypatch.setitem(formats_file._LOADERS, "transformers", lambda folder: lambda x: load(folder)(x) * 1.0003)
    with pytest.raises(ParityError, match="0.0001 for float32"):
        export_model(student(), KASegImageProcessor(), tmp_path / "out", ExportOptions("transformers"))


def test_images_of_other_channels(tmp_path: Path) -> None:
    model = student(num_channels=1)
    processor = KASegImageProcessor(do_convert_rgb=False, image_mean=[0.5], image_std=[0.25])
    export_model(model, processor, tmp_path / "out", ExportOptions("transformers"), parity_sizes=SIZES)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_channels"] == 1
