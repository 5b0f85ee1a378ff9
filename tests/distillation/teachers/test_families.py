"""Every family that the documentation names as a possible teacher."""

import datasets
import pytest
import torch
import transformers
from PIL import Image
from tiny_teachers import CLASSES, FAMILIES, NAMES, UNIVERSAL, Family
from torch import nn
from torch.nn import functional as F
from toy import FIRST_STAGE, arguments

from kaseg import KASegConfig, KASegModel, KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.outputs import class_scores_from_queries

SIZE = (97, 65)
DISTILLED = ("segformer", "data2vec", "mask2former", "smp-unet", "timm")


@pytest.fixture(scope="module", params=FAMILIES)
def built(request) -> tuple[Family, nn.Module, TeacherAdapter]:
    torch.manual_seed(0)
    family = FAMILIES[request.param]
    model = family.build().train()
    return family, model, TeacherAdapter(model, **family.options)


def test_tap_channels_and_stride_are_found_and_maps_of_any_image_size_keep_their_geometry(built) -> None:
    family, model, teacher = built
    assert ("<" if teacher.tap.reads_input else "") + teacher.tap.name == family.tap
    assert teacher.describe() == (family.channels, family.stride)
    output = teacher(torch.randn(2, 3, *SIZE))
    assert output.features.shape[:2] == (2, family.channels)
    for side, positions in zip(SIZE, output.features.shape[-2:], strict=True):
        assert abs(positions - side / family.stride) <= 1
    assert output.logits.shape[:2] == (2, CLASSES)
    assert output.features.isfinite().all() and output.logits.isfinite().all()
    if getattr(getattr(model, "config", None), "model_type", None) not in UNIVERSAL:  # whose logits have a test below
        images = torch.randn(2, 3, 64, 64)  # a size that every family takes as it is
        with torch.no_grad():
            output = model.eval()(images)
        own = output if isinstance(output, torch.Tensor) else output["logits" if "logits" in output else "out"]
        torch.testing.assert_close(teacher(images).logits, own)


def test_never_trained_never_in_train_mode(built) -> None:
    _, _, teacher = built
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    nn.ModuleDict({"teacher": teacher}).train()
    features = teacher(torch.randn(2, 3, 64, 64, requires_grad=True)).features
    assert not features.requires_grad
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize("name", UNIVERSAL)
def test_queries_become_the_familys_own_masks(name: str) -> None:
    model = FAMILIES[name].build().eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        task = {key: value.expand(2, -1) for key, value in FAMILIES[name].options.get("model_inputs", {}).items()}
        output = model(images, **task)
    queries = output.class_queries_logits, output.masks_queries_logits
    logits = TeacherAdapter(model, **FAMILIES[name].options)(images).logits
    torch.testing.assert_close(logits, class_scores_from_queries(*queries))

    # The queries of random weights all but agree: others in their place, so that masks of several classes come out.
    classes, masks = (3 * torch.randn_like(query) for query in queries)
    output.class_queries_logits, output.masks_queries_logits = classes, masks
    kind = {"mask2former": "Mask2Former", "maskformer": "MaskFormer", "oneformer": "OneFormer", "eomt": "Eomt"}[name]
    processor, options = getattr(transformers, f"{kind}ImageProcessor")(), {}
    if name == "eomt":
        options = {"size": {"shortest_edge": 16, "longest_edge": 16}, "target_sizes": [(16, 16)] * 2}
    if name == "mask2former":
        # Its masks are first resized to 384x384: given at that size, they are not.
        output.masks_queries_logits = masks = F.interpolate(masks, size=(384, 384), mode="bilinear")
    expected = torch.stack(processor.post_process_semantic_segmentation(output, **options))
    assert len(expected.unique()) > 1
    assert (class_scores_from_queries(classes, masks).argmax(1) == expected).float().mean() > 0.9999  # ties


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLED)
def test_distillation_leaves_the_teacher_as_it_is_and_out_of_the_checkpoint(name: str, tmp_path) -> None:
    torch.manual_seed(0)
    teacher = TeacherAdapter(FAMILIES[name].build(), **FAMILIES[name].options)
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    student = KASegModel(KASegConfig(backbone="test_resnet", head_channels=16, id2label=NAMES))
    trainer = KnowledgeAdaptationTrainer(
        model=student,
        teacher=teacher,
        args=KnowledgeAdaptationConfig(
            **arguments(tmp_path, per_device_train_batch_size=2, max_steps=1, crop_size=[64, 64], **FIRST_STAGE)
        ),
        train_dataset=datasets.Dataset.from_list(
            [
                {"image": Image.new("RGB", (64, 64), color), "label": Image.new("L", (64, 64), index)}
                for index, color in enumerate(("red", "green", "blue", "white"))
            ]
        ),
    )  # fmt: skip
    trainer.train()
    assert teacher.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    trainer.save_model()
    assert KASegModel.from_pretrained(tmp_path).state_dict().keys() == student.state_dict().keys()
    assert {path.name for path in tmp_path.glob("*.safetensors")} <= {"model.safetensors", "adapters.safetensors"}
