"""Which files of a checkpoint folder go to the Hub: what a user of the model needs, nothing else."""

import re
from pathlib import Path

import yaml

from kaseg.model_card.settings import public_settings

# The list is of what is sent, not of what is left out: pickles (training_args.bin), optimizer state, adapters and
# whatever else lies in the folder of a run stay where they are.
_NAMED = re.compile(
    r"(preprocessor_)?config\.json|README\.md|recipe\.yaml|results\.json"
    r"|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
)
_PICTURE = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]*\ssrc=["']([^"']+)""")
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
RECIPE_NAME = "recipe.yaml"


def published_files(folder: str | Path) -> dict[str, Path | bytes]:
    """The files in the folder of a checkpoint that are published, sorted: path in the repository -> file.

    They are weights (safetensors), config, image processor, card, recipe and results, and the pictures that the card
    shows. A recipe that tells where things lie on this machine comes as content without these lines.
    """
    folder = Path(folder)
    names = [path.name for path in folder.iterdir() if path.is_file() and _NAMED.fullmatch(path.name)]
    files: dict[str, Path | bytes] = {name: folder / name for name in sorted([*names, *_pictures(folder)])}
    if RECIPE_NAME in files:
        text = (folder / RECIPE_NAME).read_text(encoding="utf-8")
        if (public := _public_recipe(text)) != text:
            files[RECIPE_NAME] = public.encode()
    return files


def _public_recipe(text: str) -> str:
    """A recipe without private fields and paths; comments stay."""
    recipe = yaml.safe_load(text) or {}
    public = public_settings(recipe)
    changed = {key for key in recipe if key not in public or public[key] != recipe[key]}
    kept, skipping = [], False
    for line in text.splitlines(keepends=True):
        if line[0] not in " -\r\n":  # not the rest of a value
            key = line.partition(":")[0]
            skipping = key in changed
            if skipping and key in public:
                kept.append(yaml.safe_dump({key: public[key]}))
        if not skipping:
            kept.append(line)
    return "".join(kept)


def _pictures(folder: Path) -> list[str]:
    """Pictures inside the folder that its card shows, as paths relative to it."""
    card = folder / "README.md"
    if not card.is_file():
        return []
    root = folder.resolve()
    found = set()
    for groups in _PICTURE.findall(card.read_text(encoding="utf-8")):
        path = (root / "".join(groups)).resolve()
        if path.suffix.lower() in _PICTURE_SUFFIXES and path.is_file() and path.is_relative_to(root):
            found.add(path.relative_to(root).as_posix())
    return sorted(found)
