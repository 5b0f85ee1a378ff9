import json

import pytest
import torch
import transformers
from tiny_teachers import CLASSES, FAMILIES

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.loading import load_teacher
from kaseg.loading_errors import CheckpointError

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.125]}


@pytest.mark.parametrize("name", ["segformer", "mask2former", "maskformer", "eomt"])
def test_folders_of_transformers(name: str, tmp_path) -> None:
    model = FAMILIES[name].build()
    model.save_pretrained(tmp_path)
    transformers.SegformerImageProcessor(**STATISTICS).save_pretrained(tmp_path)
    loaded = TeacherAdapter.from_pretrained(str(tmp_path))
    own = TeacherAdapter(model)(IMAGES)
    assert torch.equal(loaded(IMAGES).logits, own.logits) and torch.equal(loaded(IMAGES).features, own.features)
    assert load_teacher(str(tmp_path)).normalization.mean == pytest.approx((0.5, 0.4, 0.3))


def test_oneformer_is_told_its_task(tmp_path) -> None:
    FAMILIES["oneformer"].build().save_pretrained(tmp_path)
    transformers.OneFormerImageProcessor(**STATISTICS).save_pretrained(tmp_path)
    words = ["the</w>", "task</w>", "is</w>", "semantic</w>"]
    letters = sorted(set("".join(word.removesuffix("</w>") for word in words)))
    vocabulary, merges = [*letters, *(letter + "</w>" for letter in letters)], []
    for word in words:
        stem = word.removesuffix("</w>")
        parts = [*stem[:-1], stem[-1] + "</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary.append(parts[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)}, merges=list(dict.fromkeys(merges))
    )
    tokenizer.save_pretrained(tmp_path)
    loaded = load_teacher(str(tmp_path))
    tokens = loaded.model_inputs["task_inputs"]
    expected = transformers.OneFormerProcessor(
        transformers.OneFormerImageProcessor(), tokenizer, task_seq_length=7
    )._preprocess_text(["the task is semantic"], max_length=7)
    assert tokens.shape == (1, 7) and torch.equal(tokens, expected) and len(tokens.unique()) >= 6
    output = TeacherAdapter.from_pretrained(str(tmp_path))(IMAGES.repeat(2, 1, 1, 1))
    assert output.logits.shape == (2, CLASSES, 16, 16)
    with pytest.raises(ValueError, match="OneFormer is told its task.*task_inputs"):
        TeacherAdapter(loaded.model)


def test_folders_of_segmentation_models_pytorch(tmp_path) -> None:
    model = FAMILIES["smp-unet"].build()
    model.save_pretrained(tmp_path)
    # As of a model that was trained from ImageNet weights, which must not be fetched again.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"encoder_weights": "imagenet"}))
    loaded = TeacherAdapter.from_pretrained(str(tmp_path))
    assert torch.equal(loaded(IMAGES).logits, TeacherAdapter(model)(IMAGES).logits)
    assert load_teacher(str(tmp_path)).normalization is not None


def test_ours_in_half_precision_is_read_as_float32(tmp_path) -> None:
    KASegModel(KASegConfig(backbone="test_resnet")).half().save_pretrained(tmp_path)
    KASegImageProcessor().save_pretrained(tmp_path)
    teacher = TeacherAdapter.from_pretrained(str(tmp_path))
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}


class TestErrors:
    def test_no_processor(self, tmp_path) -> None:
        FAMILIES["segformer"].build().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="no image processor.*image_mean="):
            load_teacher(str(tmp_path))

    def test_not_a_model_that_is_known(self, tmp_path) -> None:
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ValueError, match="no model_type.*pass it as teacher"):
            load_teacher(str(tmp_path))

    def test_not_a_segmentation_model(self, tmp_path) -> None:
        transformers.BertConfig().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="BertConfig"):
            load_teacher(str(tmp_path))

    def test_pickles_of_segmentation_models_pytorch_are_not_read(self, tmp_path) -> None:
        model = FAMILIES["smp-unet"].build()
        model.save_pretrained(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="no weights as safetensors"):
            load_teacher(str(tmp_path))
