import re

import numpy as np
import pytest

from kaseg.data.label_spaces import LabelSpace, map_labels, palette_for, parse_color, read_label_space
from kaseg.data.sources import CAMVID, PASCAL_VOC


def test_voc_palette_is_the_published_one():
    # The first 21 colors and the void color as printed in the PASCAL VOC development kit.
    expected = (
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128),
        (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
    )  # fmt: skip
    assert palette_for(21) == expected
    assert PASCAL_VOC.palette == expected
    assert palette_for(256)[255] == (224, 224, 192)
    # The kit's function deals out 24 bits, so it does not end with the values of a byte.
    assert len(set(palette_for(1000))) == 1000 and palette_for(257)[256] == (0, 0, 32)
    with pytest.raises(ValueError, match="2\\*\\*24 colors"):
        palette_for(2**24 + 1)


def test_map_labels_of_16_bit_values():
    space = LabelSpace("wide", ("a", "b"), label_map={1000: 0, 40000: 1, 7: 255})
    raw = np.array([[1000, 40000], [7, 255]], dtype=np.uint16)
    np.testing.assert_array_equal(map_labels(raw, space, "a"), [[0, 1], [255, 255]])
    np.testing.assert_array_equal(map_labels(raw.astype(np.int32), space, "a"), [[0, 1], [255, 255]])


def test_every_value_is_either_mapped_or_refused():
    for space in (CAMVID, PASCAL_VOC):
        legal = {**{value: value for value in range(space.num_labels)}, 255: 255, **(space.label_map or {})}
        for value in range(256):
            mask = np.full((2, 2), value, dtype=np.uint8)
            if value in legal:
                assert (map_labels(mask, space, "x") == legal[value]).all()
            else:
                with pytest.raises(ValueError, match=str(value)):
                    map_labels(mask, space, "x")


def test_illegal_labels_name_sample_and_values():
    for dtype in (np.uint8, np.uint16, np.int32):
        mask = np.array([[0, 21], [21, 77]], dtype=dtype)
        with pytest.raises(ValueError, match=r"Sample 2007_000032: .*21 \(2 pixels\), 77 \(1 pixels\).*label_map"):
            map_labels(mask, PASCAL_VOC, "2007_000032")
    for value in (-1, 65536, 1 << 30):  # outside the table
        with pytest.raises(ValueError, match=f"Sample far: .*{value}"):
            map_labels(np.array([[0, value]], dtype=np.int64), PASCAL_VOC, "far")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ()}, "0 classes"),
        ({"names": ("a", "b", "a")}, r"\['a'\] more than once"),
        ({"names": ("a", "b"), "palette": ((0, 0, 0),)}, "palette has 1 colors for 2 names"),
        ({"names": ("a", "b"), "ignore_index": 1}, "ignore_index is 1"),
        ({"names": ("a", "b"), "ignore_index": 254}, "ignore_index is 254, but void is 255 everywhere"),
        ({"names": ("a", "b"), "label_map": {0: 2}}, "sends 0 to 2"),
        ({"names": ("a", "b"), "label_map": {-1: 0}}, "sends -1 to 0"),
    ],
)
def test_impossible_spaces(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelSpace("bad", **arguments)


def test_read_label_space(tmp_path):
    names = tmp_path / "classes.txt"
    names.write_text("# comment\nroad\n\n # comment\ntraffic light \n", encoding="utf-8")
    assert read_label_space(names).names == ("road", "traffic light")

    table = tmp_path / "classes.json"
    table.write_text('{"7": "road", "0": null, "3": "sky"}', encoding="utf-8")
    space = read_label_space(table)
    assert space.names == ("sky", "road")
    np.testing.assert_array_equal(map_labels(np.array([[0, 3, 7, 255]]), space, "a"), [[255, 0, 1, 255]])
    with pytest.raises(ValueError, match="1 "):
        map_labels(np.array([[1]]), space, "a")

    table.write_text('{"0": "sky", "1": "road"}', encoding="utf-8")
    assert read_label_space(table).label_map is None
    table.write_text('["sky"]', encoding="utf-8")
    with pytest.raises(ValueError, match="JSON object"):
        read_label_space(table)
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        read_label_space(tmp_path / "nothing.txt")


def test_file_and_instance_ids_are_named():
    with pytest.raises(ValueError, match=r"Sample a: the label mask m\.png holds 26001 .* usually instance ids"):
        map_labels(np.array([[0, 26001]], np.uint16), PASCAL_VOC, "a", "m.png")
    with pytest.raises(ValueError) as caught:
        map_labels(np.array([[0, 99]], np.uint8), PASCAL_VOC, "a")
    assert "instance" not in str(caught.value) and "mask holds 99" in str(caught.value)


@pytest.mark.parametrize("num_labels", [2, 21, 253, 254, 255])
@pytest.mark.parametrize("form", ["plain", "label map", "view", "empty"])
def test_masks_of_bytes_are_mapped_as_wider_ones_are(num_labels: int, form: str) -> None:
    """By a way of their own: the same ids, the same errors for every illegal value."""
    rng = np.random.default_rng(num_labels)
    label_map = None
    if form == "label map":
        raw = rng.permutation(256)[: num_labels + 1].tolist()
        label_map = dict(zip(raw, [*range(num_labels), 255], strict=True))
    space = LabelSpace("a", tuple(map(str, range(num_labels))), label_map=label_map)
    legal = [value for value in range(256) if space._table[value] >= 0]
    mask = rng.choice(np.array(legal, np.uint8), (37, 53))
    mask = mask.T[::-1, ::2] if form == "view" else mask[:0] if form == "empty" else mask
    found = map_labels(mask, space, "s")
    expected = map_labels(mask.astype(np.int32), space, "s")
    assert found.dtype == expected.dtype == np.uint8 and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    assert found.flags.writeable
    for value in (set(range(256)) - set(legal)) if mask.size else ():
        bad = mask.copy()
        bad[3, 2] = value
        messages = []
        for array in (bad, bad.astype(np.int32)):
            with pytest.raises(ValueError, match=f"Sample s: the label mask f holds {value} ") as caught:
                map_labels(array, space, "s", "f")
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_parse_color():
    for color, expected in (("#804080", (128, 64, 128)), ((1, 2, 3), (1, 2, 3)), ([0, 0, 255], (0, 0, 255))):
        assert parse_color(color) == expected
    for wrong in ("red", "#80408", "#8040801", (1, 2), (1, 2, 256), 7, None):
        with pytest.raises(ValueError, match="is not a color"):
            parse_color(wrong)


def test_colors_against_a_dictionary():
    rng = np.random.default_rng(0)
    space = LabelSpace("voc2012", PASCAL_VOC.names, void_colors=("#e0e0c0",)).with_colors()
    meaning = {color: train_id for train_id, color in enumerate(space.palette)} | {(224, 224, 192): 255}
    colors = rng.permutation(np.array(list(meaning), dtype=np.uint8).repeat(3, axis=0)).reshape(6, 11, 3)
    mapped = map_labels(colors, space, "a")
    assert mapped.dtype == np.uint8
    np.testing.assert_array_equal(mapped, [[meaning[tuple(pixel.tolist())] for pixel in row] for row in colors])


@pytest.mark.parametrize("color", [(0, 0, 1), (255, 255, 255), (127, 0, 0)])
def test_unknown_colors_are_named(color):
    colors = np.array([[(0, 0, 0), color, color]], dtype=np.uint8)
    message = f"Sample a: the label mask m.png holds the colors {color} (2 pixels), which"
    with pytest.raises(ValueError, match=re.escape(message)):
        map_labels(colors, PASCAL_VOC.with_colors(), "a", "m.png")


def test_colors_and_indices_are_not_confused():
    with pytest.raises(ValueError, match="does not fit the encoding 'color'"):
        map_labels(np.zeros((2, 2), np.uint8), PASCAL_VOC.with_colors(), "a")
    with pytest.raises(ValueError, match="does not fit the encoding 'index'"):
        map_labels(np.zeros((2, 2, 3), np.uint8), PASCAL_VOC, "a")
    with pytest.raises(ValueError, match="encoding is 'colour'"):
        LabelSpace("bad", ("a",), encoding="colour")
    with pytest.raises(ValueError, match=r"'a' and 'b' have the same color \(1, 2, 3\)"):
        LabelSpace("bad", ("a", "b"), ((1, 2, 3), (1, 2, 3))).with_colors()
    with pytest.raises(ValueError, match="'a' and 'void' have the same color"):
        LabelSpace("bad", ("a",), void_colors=("#000000",)).with_colors()


def test_colors_in_a_class_file(tmp_path):
    table = tmp_path / "classes.json"
    table.write_text('{"0": {"color": "#000000"}, "4": {"name": "sky", "color": [0, 0, 255]}}')
    space = read_label_space(table)
    assert (space.names, space.palette, space.void_colors) == (("sky",), ((0, 0, 255),), ((0, 0, 0),))
    np.testing.assert_array_equal(map_labels(np.array([[0, 4]]), space, "a"), [[255, 0]])
    colors = np.array([[(0, 0, 0), (0, 0, 255)]], np.uint8)
    np.testing.assert_array_equal(map_labels(colors, space.with_colors(), "a"), [[255, 0]])
    table.write_text('{"0": "sky", "1": {"name": "road", "color": "#804080"}}')
    with pytest.raises(ValueError, match=r"classes\.json: 1 of 2 classes have a color"):
        read_label_space(table)
    table.write_text('{"0": {"name": "sky", "color": "blue"}}')
    with pytest.raises(ValueError, match=r"classes\.json: 'blue' is not a color"):
        read_label_space(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": "sky", "1": "road", "1": "car"}', "1 stands more than once"),
        ('{"0": "sky", "1": "road", "01": "car"}', "1 stands more than once"),
        ('{"0": "sky", "1": {"nmae": "road"}}', "1 has the fields nmae; a class has a name and"),
        ('{"0": "sky", "1": {"name": "road", "colour": "#804080"}}', "1 has the fields colour"),
    ],
)
def test_what_would_drop_a_class_is_refused(text: str, message: str, tmp_path) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(ValueError, match=rf"classes\.json: .*{message}"):
        read_label_space(tmp_path / "classes.json")
