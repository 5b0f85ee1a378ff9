"""Sending files to the Hub: one commit, repeated after passing trouble, and errors that say what to do."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
MAX_WAIT = 60.0
# Too many requests, trouble of the server, or somebody else who writes to the repository at the same moment.
_PASSING = (409, 412, 429, 500, 502, 503, 504)
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
_ADVICE = {
    401: f"no valid token was given (401). {_LOG_IN}",
    403: "the token may not write there (403). Use one with write access to {namespace}, another repository, or open a "
    "pull request (create_pr).",
    404: "there is no such repository, branch or right to see it (404). Check the name; a pull request needs a "
    "repository that is already there, otherwise it is made.",
    409: "somebody else is writing to it (409). Try again in a moment.",
    412: "somebody else is writing to it (412). Try again in a moment.",
    413: "a file is larger than the Hub takes (413).",
    429: "too many requests (429). Wait some minutes and try again.",
}


class UploadError(OSError):
    """Something could not be sent to the Hub; the message says why and what to do. Local files are as they were."""


@dataclass(frozen=True)
class Destination:
    """Where files go.

    Args:
        repo_id (`str`): `"namespace/name"`; a bare name goes to the namespace of the token.
        repo_type (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`; a new Space is one of Gradio.
        private (`bool`, *optional*): Whether a new repository is private; by default what the namespace prescribes
            (public, for most).
        revision (`str`, *optional*): Branch, made if it is missing; `main` by default.
        create_pr (`bool`, defaults to `False`): Open a pull request on `main` of a repository that is already there.
        token (`str`, *optional*): Instead of the one of `hf auth login` or `HF_TOKEN`.

    Raises:
        ValueError: a pull request to another revision than `main`, which the Hub does not know.
    """

    repo_id: str
    repo_type: str = "model"
    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    token: str | None = None

    def __post_init__(self) -> None:
        if self.create_pr and self.revision not in (None, "main"):
            raise ValueError(
                f"A pull request goes to main, not to revision {self.revision!r}: give create_pr or revision, not both."
            )


def create_repository(destination: Destination) -> str:
    """Makes the repository and its branch if they are missing (not for a pull request), or raises an UploadError;
    returns the full id."""
    api = HfApi(token=destination.token)

    def create() -> str:
        if destination.create_pr:
            return destination.repo_id
        kind, sdk = destination.repo_type, "gradio" if destination.repo_type == "space" else None
        url = api.create_repo(
            destination.repo_id, repo_type=kind, private=destination.private, exist_ok=True, space_sdk=sdk
        )
        if destination.revision not in (None, "main"):
            api.create_branch(url.repo_id, branch=destination.revision, repo_type=kind, exist_ok=True)
        return url.repo_id

    return _retried(create, destination)


def upload(files: Mapping[str, Path | bytes], destination: Destination, message: str) -> CommitInfo:
    """Sends files (path in the repository -> file or content) in one commit, making the repository if it is missing.
    Files that have not changed are not sent.

    Raises:
        UploadError: it did not work, after [`TRIES`] tries where trying again can help.
    """
    # Not HfApi.upload_folder: recipes and configs are sent in another form than they have on disk.
    repo_id, api = create_repository(destination), HfApi(token=destination.token)

    def commit() -> CommitInfo:
        return api.create_commit(
            repo_id,
            operations=[CommitOperationAdd(path, source) for path, source in files.items()],
            commit_message=message,
            repo_type=destination.repo_type,
            revision=destination.revision,
            create_pr=destination.create_pr,
        )

    return _retried(commit, destination)


def _retried(call: Callable[[], T], destination: Destination) -> T:
    """Calls up to [`TRIES`] times while the trouble is passing; `Retry-After` is heeded."""
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            # Where a file is uploaded, the client wraps errors in a RuntimeError.
            cause = error.__cause__ if isinstance(error, RuntimeError) else None
            reason = cause if isinstance(cause, HTTPError | OSError) else error
            wait = _wait(reason, attempt)
            if wait is None or attempt == TRIES:
                folder = "" if destination.repo_type == "model" else f"{destination.repo_type}s/"
                address = f"{constants.ENDPOINT}/{folder}{destination.repo_id}"
                raise UploadError(f"Could not send to {address}: {_explain(reason, destination)}") from error
            logger.warning("%s; trying again in %.0f s.", str(reason).strip().partition("\n")[0], wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until it is worth trying again, `None` if it is not."""
    if not isinstance(error, HTTPError):
        return None
    asked = ""
    if isinstance(error, HfHubHTTPError):  # the others, without an answer, are troubles of the connection
        if error.response.status_code not in _PASSING:
            return None
        asked = error.response.headers.get("Retry-After", "")
    return min(float(asked), MAX_WAIT) if asked.isdigit() else float(2**attempt)


def _explain(error: Exception, destination: Destination) -> str:
    """Why it failed and what to do."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids the network. Unset it and try again."
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token. {_LOG_IN}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status >= 500:
            return f"the server is in trouble ({status}). Try again later."
        namespace = destination.repo_id.rpartition("/")[0] or "its namespace"
        return _ADVICE[status].format(namespace=namespace) if status in _ADVICE else str(error)
    if isinstance(error, HTTPError):
        return f"the server was not reached ({type(error).__name__}: {error}). Check the connection and try again."
    return str(error)
