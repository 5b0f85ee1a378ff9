"""Small datasets in the official layouts, with everything that lies beside the masks and must not be taken for one."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from kaseg.data.label_spaces import palette_for

SIZE = (6, 8)


def write_picture(path: Path) -> np.ndarray:
    """A noisy image; returns the pixels that a reader gets (JPEG changes them)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name) + ord(path.stem[-1]))
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(path)
    return np.asarray(Image.open(path))


def write_mask(path: Path, values: list[int], palette: bool = False, dtype: type = np.uint8) -> np.ndarray:
    """A mask (H, W) in which each of `values` occurs, in turn; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = np.resize(np.array(values, dtype), SIZE)
    image = Image.fromarray(raw)
    if palette:
        image = image.convert("L")
        image.putpalette([channel for color in palette_for(256) for channel in color])
    image.save(path)
    return raw


def write_mat(path: Path, values: list[int], kind: str) -> np.ndarray:
    """A mask as the `.mat` of SBD (kind "GTcls", a struct) or of PASCAL Context (kind "LabelMap"); returns it."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "GTcls":
        raw = np.resize(np.array(values, np.uint8), SIZE)
        boundaries = np.empty((20, 1), object)
        boundaries[:, 0] = [np.zeros(SIZE, np.uint8)] * 20
        struct = {"Boundaries": boundaries, "Segmentation": raw, "CategoriesPresent": np.unique(raw[raw > 0])}
        savemat(path, {"GTcls": struct}, do_compression=True)
    else:
        raw = np.resize(np.array(values, np.uint16), SIZE)
        savemat(path, {"LabelMap": raw}, do_compression=True)
    return raw


def write_list(path: Path, ids: list[str]) -> None:
    """One id per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in ids))


VOC_SPLITS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"], "test": ["2008_000001"]}


def write_voc(root: Path) -> None:
    """VOC2012: palette masks with a void border, instance masks beside them, and a test split without masks."""
    voc = root / "VOCdevkit/VOC2012"
    for split, ids in {**VOC_SPLITS, "trainval": VOC_SPLITS["train"] + VOC_SPLITS["val"]}.items():
        write_list(voc / f"ImageSets/Segmentation/{split}.txt", ids)
        for name in ids:
            write_picture(voc / f"JPEGImages/{name}.jpg")
            if split != "test":
                write_mask(voc / f"SegmentationClass/{name}.png", [0, 15, 255], palette=True)
                write_mask(voc / f"SegmentationObject/{name}.png", [0, 1, 2, 255], palette=True)


SBD_SPLITS = {"train": ["2007_000032", "2007_000033", "2008_000002"], "val": ["2008_000003"]}


def write_sbd(root: Path) -> None:
    """SBD: its lists overlap VOC's train and validation; masks are structs without void."""
    folder = root / "benchmark_RELEASE/dataset"
    for split, ids in SBD_SPLITS.items():
        write_list(folder / f"{split}.txt", ids)
        for name in ids:
            write_picture(folder / f"img/{name}.jpg")
            write_mat(folder / f"cls/{name}.mat", [0, 7], "GTcls")
            (folder / f"inst/{name}.mat").parent.mkdir(exist_ok=True)
            (folder / f"inst/{name}.mat").write_bytes(b"instances")


CITYSCAPES_IDS = {
    "train": ["aachen/aachen_000000_000019", "bremen/bremen_000000_000019"],
    "val": ["frankfurt/frankfurt_000000_000294"],
    "test": ["berlin/berlin_000000_000019"],
}


def write_cityscapes(root: Path, quality: str = "gtFine", splits: dict | None = None) -> None:
    """Cityscapes: masks of all 34 ids, and instance (16-bit), color and polygon files beside them."""
    for split, ids in (splits or CITYSCAPES_IDS).items():
        for name in ids:
            write_picture(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png")
            stem = root / f"{quality}/{split}/{name}_{quality}"
            values = [0, 1, 2, 3] if split == "test" else [*range(34), 255]
            write_mask(Path(f"{stem}_labelIds.png"), values)
            write_mask(Path(f"{stem}_instanceIds.png"), [7, 26001, 24000], dtype=np.uint16)
            Image.new("RGBA", SIZE[::-1], (128, 64, 128, 255)).save(f"{stem}_color.png")
            Path(f"{stem}_polygons.json").write_text("{}")


def write_ade20k(root: Path) -> None:
    """ADEChallengeData2016, with its two text files."""
    base = root / "ADEChallengeData2016"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_picture(base / f"images/{split}/{name}.jpg")
        write_mask(base / f"annotations/{split}/{name}.png", [0, 1, 2, 150])
    (base / "objectInfo150.txt").write_text("Idx\tRatio\n")
    (base / "sceneCategories.txt").write_text("ADE_train_00000001 airport_terminal\n")


def write_coco_stuff(root: Path, images: str = "images", masks: str = "stuffthingmaps") -> None:
    """COCO-Stuff: images of COCO 2017 and masks of things and stuff."""
    for split in ("train2017", "val2017"):
        write_picture(root / images / split / "000000000139.jpg")
        write_mask(root / masks / split / "000000000139.png", [0, 12, 91, 181, 255])


CONTEXT_IDS = {"train": ["2008_000002", "2008_000003"], "val": ["2008_000007"]}


def write_voc2010(root: Path, lists: str) -> None:
    """Pictures and lists of VOC2010; the last image of train is one that is not annotated."""
    for split, ids in CONTEXT_IDS.items():
        listed = [*ids, "2010_009999"] if split == "train" and lists == "Main" else ids
        write_list(root / f"VOC2010/ImageSets/{lists}/{split}.txt", listed)
        for name in listed:
            write_picture(root / f"VOC2010/JPEGImages/{name}.jpg")


def write_pascal_context(root: Path, values: list[int], class_list: dict[int, str] | None = None) -> None:
    """PASCAL Context as published: `trainval/*.mat` of 459 labels, and `labels.txt`."""
    write_voc2010(root, "Main")
    for name in itertools.chain(*CONTEXT_IDS.values()):
        write_mat(root / f"VOC2010/trainval/{name}.mat", values, "LabelMap")
    if class_list is not None:
        lines = "".join(f"{value}: {name}\n" for value, name in class_list.items())
        (root / "VOC2010/labels.txt").write_text(lines)


def write_pascal_context_png(root: Path, values: list[int]) -> None:
    """PASCAL Context converted to PNG masks of 60 values."""
    write_voc2010(root, "SegmentationContext")
    for name in itertools.chain(*CONTEXT_IDS.values()):
        write_mask(root / f"VOC2010/SegmentationClassContext/{name}.png", values)


def write_camvid_folders(root: Path) -> None:
    """CamVid in the folders of SegNet."""
    for split in ("train", "val", "test"):
        write_picture(root / f"CamVid/{split}/0001TP_006690.png")
        write_mask(root / f"CamVid/{split}annot/0001TP_006690.png", [*range(12)])
        (root / f"CamVid/{split}.txt").write_text(f"/SegNet/CamVid/{split}/0001TP_006690.png ...\n")
