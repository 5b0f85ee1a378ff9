"""What went wrong while a checkpoint was loaded, and what to do about it.

The file is flat and imports no other of ours, so that it can lie in a Hub repository beside the model files.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

_WEIGHTS = "model*.safetensors"
_NO_CONVERSION = "DISABLE_SAFETENSORS_CONVERSION"


class CheckpointError(OSError):
    """A checkpoint could not be loaded; the message says why and what to do."""


@contextmanager
def explained_loading(name: Any, revision: str | None = None, cache_dir: Any = None) -> Iterator[None]:
    """Turns what `from_pretrained` raises inside into a [`CheckpointError`] that says what to do. Errors that are none
    of loading pass as they are. While inside, transformers does not ask its conversion service to make safetensors of a
    repository's pickles, as it else does (with the user's token).

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit.
        cache_dir: The cache, if it is not the usual one.
    """
    before = os.environ.get(_NO_CONVERSION)
    os.environ[_NO_CONVERSION] = "1"
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = _reason(str(name), revision, cache_dir, error)
        if reason is None:
            raise
        raise CheckpointError(reason) from error
    finally:
        if before is None:
            os.environ.pop(_NO_CONVERSION, None)
        else:
            os.environ[_NO_CONVERSION] = before


def check_cached_weights(name: Any, revision: str | None = None, cache_dir: Any = None) -> None:
    """Compare the cached weights of a Hub repository with their SHA-256, which is the name of the cache's file: the
    client itself only looks at the size of what it fetches. (0.1 s for 100 MB; our choice.) Arguments are those of
    [`explained_loading`]; nothing is done for a folder.

    Raises:
        CheckpointError: a file has another content than the repository.
    """
    if os.path.isdir(name):
        return
    for file in _weights(str(name), revision, cache_dir):
        blob = file.resolve()
        if re.fullmatch(r"[0-9a-f]{64}", blob.name):
            with blob.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != blob.name:
                    raise CheckpointError(_damaged(str(name), [file], "its SHA-256 is not that of the repository"))


def _reason(name: str, revision: str | None, cache_dir: Any, error: Exception) -> str | None:
    """In words, why loading failed and what to do; `None` if that is not known."""
    if not isinstance(error, OSError | HTTPError | HFValidationError | SafetensorError):
        return None
    page = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, SafetensorError):
        files = [file for file in _weights(name, revision, cache_dir) if not is_readable(file)]
        return _damaged(name, files, str(error))
    if _has(error, HFValidationError):
        return f"{name}: no such folder, and it cannot be the id of a repository on the Hub (namespace/name) either."
    if _has(error, GatedRepoError):
        return f"{name} is gated. Ask for access at {page}, then log in with `hf auth login` or pass token=."
    if _has(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r}. Its branches and tags are listed at {page}/tree/main."
    if _has(error, RepositoryNotFoundError):
        return (
            f"{name} is neither a folder here, nor a checkpoint that ships with kaseg (`kaseg list`), nor a repository "
            f"at {constants.ENDPOINT} that you may read. Check the name; for a private repository log in with "
            "`hf auth login` or pass token=."
        )
    # With a number it is the system's: a file that is there and cannot be read.
    says_so = isinstance(error, OSError) and error.errno is None
    if says_so and ("model.safetensors" in str(error) or "pytorch_model.bin" in str(error)):
        return (
            f"{name} holds no weights as safetensors (model.safetensors). Pickled weights such as pytorch_model.bin "
            "are not read, because they can run code. Ask its authors for safetensors; if you trust them, "
            "use_safetensors=False reads the pickle."
        )
    if _has(error, LocalEntryNotFoundError) or (_has(error, HTTPError) and not _has(error, RemoteEntryNotFoundError)):
        return _unreachable(name, cache_dir, error)
    return None


def _has(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error of `kind` is among the causes."""
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def _unreachable(name: str, cache_dir: Any, error: Exception) -> str:
    cache = cache_dir or constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE:
        return (
            f"{name} is not (or not wholly) in the cache {cache}, and HF_HUB_OFFLINE forbids the network. Unset it, or "
            f"run `hf download {name}` where there is a network."
        )
    first_line = str(error).strip().partition("\n")[0]
    return (
        f"{name} could not be fetched from {constants.ENDPOINT} and is not in the cache {cache}: {first_line} Check "
        "the connection (HF_ENDPOINT, proxies) and try again; what was fetched before is kept."
    )


def _damaged(name: str, files: list[Path], reason: str) -> str:
    which = ", ".join(map(str, files)) or f"The weights of {name}"
    if os.path.isdir(name):
        return f"{which}: damaged or cut off ({reason}). Copy or save the checkpoint again."
    return (
        f"{which}: damaged or cut off ({reason}). Fetch it again: from_pretrained({name!r}, force_download=True). If "
        "it stays so, the file in the repository is damaged."
    )


def is_readable(file: Path) -> bool:
    """Whether a safetensors file is there and as long as it says: it may have been copied in part, or its disk full."""
    try:
        with safe_open(file, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _weights(name: str, revision: str | None, cache_dir: Any) -> list[Path]:
    """The weights of a folder, or those of a Hub repository that are in the cache."""
    if os.path.isdir(name):
        return sorted(Path(name).glob(_WEIGHTS))
    config = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir, revision=revision)
    return sorted(Path(config).parent.glob(_WEIGHTS)) if isinstance(config, str) else []


def missing_weights(model: Any, info: Mapping[str, Any]) -> list[str]:
    """Names of the weights that a checkpoint lacks, so that they are random numbers; `info` is what `from_pretrained`
    gives with `output_loading_info=True`."""
    # Not buffers, which old checkpoints lack, nor what serves training alone.
    own = {key for key, _ in model.named_parameters() if not key.startswith(("auxiliary_head.", "criterion."))}
    return sorted(own & {*info["missing_keys"]})


def require_all_weights(loaded: tuple[Any, Mapping[str, Any]], name: str) -> Any:
    """The model of what `from_pretrained(..., output_loading_info=True)` gives; a CheckpointError if the checkpoint
    lacks weights of it, as an encoder without its head does."""
    model, info = loaded
    if missing := missing_weights(model, info):
        raise CheckpointError(
            f"{name} lacks {len(missing)} of the trained weights of a {type(model).__name__} ({missing[0]}), which "
            "would be random numbers. Name a checkpoint that was trained for semantic segmentation, not its encoder."
        )
    return model
