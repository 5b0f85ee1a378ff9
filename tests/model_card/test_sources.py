import datasets
import pytest
from torch import nn

from kaseg import KASegConfig, KASegModel
from kaseg.data import SPECS, SegmentationDataset
from kaseg.distillation import TeacherAdapter
from kaseg.model_card import DataSource, TeacherSource


@pytest.mark.parametrize("name", sorted(SPECS))
def test_known_data_bring_their_license(name: str) -> None:
    source = DataSource.named(name)
    assert (source.name, source.license, source.homepage) == (name, SPECS[name].license, SPECS[name].homepage)
    assert source.hub_license["license"] in (SPECS[name].license.lower(), "other")


def test_a_license_without_an_id_has_a_name_and_a_link() -> None:
    source = DataSource("voc", "Flickr terms of use (pictures)", "http://example.org")
    assert source.hub_license == {
        "license": "other",
        "license_name": "flickr-terms-of-use-pictures",
        "license_link": "http://example.org",
    }
    assert DataSource("mine").hub_license == {}


def test_a_folder_is_named_without_its_place(tmp_path) -> None:
    (tmp_path / "street").mkdir()
    assert DataSource.named(str(tmp_path / "street")) == DataSource("street")
    assert DataSource.named("user/street") == DataSource("user/street")


def test_what_a_dataset_says_of_itself() -> None:
    dataset = datasets.Dataset.from_dict({"image": [0]})
    assert DataSource.of(dataset) == DataSource.of(None) == DataSource()
    dataset.info.builder_name = dataset.info.dataset_name = "parquet"
    assert DataSource.of(dataset) == DataSource(), "named after the builder, not after the data"
    dataset.info.dataset_name, dataset.info.license = "mine", "mit"
    assert DataSource.of(SegmentationDataset(dataset, lambda *a: {})) == DataSource("mine", "mit")
    dataset.info.dataset_name = "camvid"
    assert DataSource.of(dataset) == DataSource.named("camvid")


def test_teachers(tmp_path) -> None:
    folder = tmp_path / "big-teacher"
    folder.mkdir()
    assert TeacherSource.of(folder) == TeacherSource("big-teacher")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert TeacherSource.of(str(folder)) == TeacherSource("big-teacher", "mit")
    assert TeacherSource.of("user/not-here") == TeacherSource("user/not-here")
    assert TeacherSource.of("/gone/runs/teacher") == TeacherSource("teacher")
    assert TeacherSource.of("kaseg/mobilenetv2-os16-camvid-teacher") == TeacherSource(
        "kaseg/mobilenetv2-os16-camvid-teacher", "cc-by-nc-4.0"
    )
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    assert TeacherSource.of(folder) == TeacherSource("big-teacher"), "a card that cannot be read"
    (folder / "results.json").write_text('{"dataset": "camvid"}')
    assert TeacherSource.of(folder) == TeacherSource("big-teacher", "CC-BY-NC-4.0")
    assert TeacherSource.of(nn.Conv2d(1, 1, 1)) == TeacherSource("Conv2d")
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", num_labels=2))
    assert TeacherSource.of(TeacherAdapter(model)) == TeacherSource("KASegModel")
    model.config.name_or_path = str(folder)
    assert TeacherSource.of(TeacherAdapter(model)) == TeacherSource("big-teacher", "CC-BY-NC-4.0")
