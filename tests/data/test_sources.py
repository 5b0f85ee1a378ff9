import pickle
from pathlib import Path

import pytest

from kaseg.data.label_spaces import palette_for
from kaseg.data.sources import CAMVID, PASCAL_VOC, SCENES, SPECS, find_label_space, hub_source

# Classes, and raw values that are void.
SIZES = {
    "ade20k": (150, 1),
    "camvid": (11, 1),
    "cityscapes": (19, 15),
    "cityscapes_coarse": (19, 15),
    "coco_stuff": (171, 0),
    "pascal_context": (59, 401),
    "pascal_context_60": (60, 0),
    "scenes": (9, 0),
    "voc2012": (21, 0),
}


def test_specs_are_complete():
    assert SPECS.keys() == SIZES.keys()
    for name, spec in SPECS.items():
        voids = [value for value, train in (spec.label_space.label_map or {}).items() if train == 255]
        assert (spec.label_space.num_labels, len(voids)) == SIZES[name]
        assert spec.name == name == spec.label_space.name
        assert spec.title and spec.license and spec.citation and spec.download and spec.layouts
        assert (spec.homepage != "") == (name != "scenes")
        assert spec.encodings["train_ids"].label_map is None
        for space in spec.encodings.values():
            assert (space.names, space.palette) == (spec.label_space.names, spec.label_space.palette)
            assert {space.label2id[label]: label for label in space.names} == space.id2label
        for layout in spec.layouts:
            assert name == "scenes" or layout.encoding in {"", *spec.encodings}
            splits = layout.num_scenes if name == "scenes" else layout.split_names
            assert set(splits) <= set(spec.split_sizes)
        assert pickle.loads(pickle.dumps(spec)) == spec
    assert SPECS["camvid"].license == "CC-BY-NC-4.0"
    for space, name in ((CAMVID, "camvid"), (PASCAL_VOC, "voc2012"), (SCENES, "scenes")):
        assert space is SPECS[name].label_space
    assert CAMVID.id2label[10] == "bicyclist" and CAMVID.label2id["sky"] == 0
    assert PASCAL_VOC.id2label[15] == "person" and PASCAL_VOC.id2label[20] == "tvmonitor"
    assert SCENES.names == ("sky", "road", "pavement", "building", "tree", "car", "person", "pole", "sign")


def test_raw_values_of_each_encoding():
    """Counts, and values at the ends of the publishers' own lists."""

    def raw(name: str, label: str, encoding: str = "") -> int:
        space = SPECS[name].encoded(encoding)
        (value,) = [value for value, train in space.label_map.items() if train == space.label2id[label]]
        return value

    assert [raw("cityscapes", label) for label in ("road", "sky", "bicycle")] == [7, 23, 33]
    assert [raw("ade20k", label) for label in ("wall", "flag")] == [1, 150]
    assert [raw("coco_stuff", label) for label in ("person", "stop sign", "toothbrush", "wood")] == [0, 12, 89, 181]
    assert [raw("pascal_context", label) for label in ("aeroplane", "table", "track", "wood")] == [2, 397, 415, 458]
    assert [raw("pascal_context", label, "png") for label in ("aeroplane", "wood")] == [1, 59]


def test_both_readings_of_pascal_context_agree():
    small, large = SPECS["pascal_context"], SPECS["pascal_context_60"]
    assert large.label_space.names == ("background", *small.label_space.names)
    for encoding in ("labels_459", "png"):
        for value, train in small.encodings[encoding].label_map.items():
            assert large.encodings[encoding].label_map[value] == (0 if train == 255 else train + 1)


def test_palettes():
    assert SPECS["cityscapes"].label_space.palette[:2] == ((128, 64, 128), (244, 35, 232))
    assert SPECS["ade20k"].label_space.palette[0] == (120, 120, 120)
    assert SPECS["coco_stuff"].label_space.palette == palette_for(171)
    for name, spec in SPECS.items():
        if name == "ade20k":  # road and skyscraper, in the official palette
            with pytest.raises(ValueError, match="'road' and 'skyscraper' have the same color"):
                spec.encoded("color")
        else:
            assert spec.encoded("color").encoding == "color"


def test_spaces_as_users_write_them(tmp_path):
    assert find_label_space("cityscapes") is SPECS["cityscapes"].label_space
    assert find_label_space("cityscapes:train_ids").label_map is None
    assert find_label_space("voc2012:color").void_colors == ((224, 224, 192),)
    with pytest.raises(
        ValueError, match=r"'cityscapes' has no label encoding 'ids'; it has label_ids, train_ids and color"
    ):
        find_label_space("cityscapes:ids")
    file = tmp_path / "classes.txt"
    file.write_text("a\nb")
    assert find_label_space(file).encoding == "index"
    assert find_label_space(f"{file}:color").encoding == "color"
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt: no such file, nor a known dataset \(ade20k, "):
        find_label_space(tmp_path / "nothing.txt")


def test_hub_sources():
    spec, source = hub_source("zhoubolei/scene_parse_150")
    assert spec.name == "ade20k" and (source.image, source.label) == ("image", "annotation")
    assert hub_source("someone/else") is None
    ids = [source.id for spec in SPECS.values() for source in spec.hub]
    assert len(ids) == len(set(ids))
    for spec in SPECS.values():
        for source in spec.hub:
            assert source.id.count("/") == 1 and spec.encoded(source.encoding)


DOCS = Path(__file__).parents[2] / "docs/datasets.md"


def test_the_docs_table_says_what_the_catalog_says():
    rows = [
        line.strip("|").split("|") for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    table = {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in rows}
    assert set(table) == set(SPECS)
    for name, (title, classes, splits, layout, hub, license, download) in table.items():
        spec = SPECS[name]
        assert title == (f"[{spec.title}]({spec.homepage})" if spec.homepage else spec.title)
        assert int(classes) == spec.label_space.num_labels
        assert splits == ", ".join(f"{split} {size:,}" for split, size in spec.split_sizes.items())
        assert hub == (", ".join(f"`{source.id}`" for source in spec.hub) or "none known")
        assert license == spec.license
        for pattern in (pattern for files in spec.layouts for pattern in getattr(files, "label", ())):
            folder = pattern.replace("{masks}", "stuffthingmaps").replace("/{split}", "").split("/")[-2]
            assert folder in layout, f"{name}: the docs do not tell of {folder}/"
        assert download == spec.download
