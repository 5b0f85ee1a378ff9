"""Exported models, to the Hub and back."""

from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from toy import make_model

from kaseg import KASegImageProcessor, KASegOnnxModel, KASegOpenVINOModel
from kaseg.export import ExportOptions, export_model


def test_pushed_and_loaded_by_its_id(hub: HubServer, tmp_path: Path) -> None:
    export = tmp_path / "export"
    export_model(make_model(), KASegImageProcessor(), export, ExportOptions(size=(64, 96)))
    runtime = KASegOnnxModel.from_pretrained(export)
    runtime.push_to_hub("me/student-onnx", private=True)
    again = KASegOnnxModel.from_pretrained("me/student-onnx")
    KASegImageProcessor.from_pretrained("me/student-onnx")
    image = torch.randn(1, 3, 64, 96)
    assert torch.equal(runtime(image).logits, again(image).logits)
    again.save_pretrained(tmp_path / "saved")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {p.name for p in export.iterdir()}


def test_a_repository_without_an_export(hub: HubServer, checkpoint_files: dict[str, bytes]) -> None:
    hub.add_repo("me/student", checkpoint_files)
    with pytest.raises(FileNotFoundError, match="me/student holds no export of kaseg"):
        KASegOpenVINOModel.from_pretrained("me/student")
    with pytest.raises(OSError, match="me/nothing is neither a folder here"):
        KASegOnnxModel.from_pretrained("me/nothing")
