"""Sending files to the Hub: one commit, again after passing trouble, and errors that say what to do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

logger = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 3
MAX_WAIT = 60.0
# Too many requests, trouble of the server, or somebody else who writes to the repository at the same moment.
_PASSING = (409, 412, 429, 500, 502, 503, 504)


class UploadError(OSError):
    """Something could not be sent to the Hub; the message says why and what to do. Local files are as they were."""


@dataclass(frozen=True)
class Destination:
    """Where files go.

    Args:
        repo_id (`str`): `"namespace/name"`; a bare name goes to the namespace of the token.
        repo_type (`str`, defaults to `"model"`): `"model"`, `"dataset"` or `"space"`; a new Space is one of Gradio.
        private (`bool`, *optional*): Whether a new repository is private; by default what the namespace prescribes
            (public, for most). Says nothing about a repository that is already there.
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


def create_repository(destination: Destination, api: HfApi | None = None) -> str:
    """Make the repository if it is missing, and its branch; nothing is made for a pull request.

    Returns:
        The full id of the repository.

    Raises:
        UploadError: it cannot be made; the message says what to do.
    """
    api = api or HfApi(token=destination.token)

    def create() -> str:
        if destination.create_pr:
            return destination.repo_id
        url = api.create_repo(
            destination.repo_id,
            repo_type=destination.repo_type,
            private=destination.private,
            exist_ok=True,
            space_sdk="gradio" if destination.repo_type == "space" else None,
        )
        if destination.revision not in (None, "main"):
            api.create_branch(url.repo_id, branch=destination.revision, repo_type=destination.repo_type, exist_ok=True)
        return url.repo_id

    return explained(create, destination)


def upload(
    files: Mapping[str, Path | bytes], destination: Destination, message: str, api: HfApi | None = None
) -> CommitInfo:
    """Send files in one commit, making the repository if it is missing. Files that have not changed are not sent.

    Args:
        files (`Mapping[str, Path | bytes]`): Path in the repository -> file or content.
        destination ([`Destination`]): Where to.
        message (`str`): Commit message.
        api (`HfApi`, *optional*): A client; by default one for `HF_ENDPOINT`.

    Raises:
        UploadError: it did not work, after [`TRIES`] tries where trying again can help.
    """
    api = api or HfApi(token=destination.token)
    repo_id = create_repository(destination, api)

    def commit() -> CommitInfo:
        return api.create_commit(
            repo_id,
            operations=[CommitOperationAdd(path, source) for path, source in files.items()],
            commit_message=message,
            repo_type=destination.repo_type,
            revision=destination.revision,
            create_pr=destination.create_pr,
        )

    return explained(commit, destination)


def explained(call: Callable[[], T], destination: Destination) -> T:
    """What `call` returns, called again after passing trouble (up to [`TRIES`] times, `Retry-After` is heeded).

    Raises:
        UploadError: it failed for good; the message says why and what to do.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except (HTTPError, OSError, ValueError, RuntimeError) as error:
            reason = _root_cause(error)
            wait = _wait(reason, attempt)
            if wait is None or attempt == TRIES:
                text = f"Could not send to {_address(destination)}: {_explain(reason, destination)}"
                raise UploadError(text) from error
            logger.warning("%s; trying again in %.0f s.", str(reason).strip().partition("\n")[0], wait)
            time.sleep(wait)


def _root_cause(error: Exception) -> Exception:
    """The error itself, or the one that the client has wrapped: where a file is uploaded, it raises a RuntimeError."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, HTTPError | OSError) else error


def _wait(error: Exception, attempt: int) -> float | None:
    """Seconds until it is worth trying again, `None` if it is not."""
    response = _response(error)
    if response is None:
        # Of the client's own errors, those without an answer are troubles of the connection.
        return float(2**attempt) if _is_network_error(error) else None
    if response.status_code not in _PASSING:
        return None
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), MAX_WAIT) if asked.isdigit() else float(2**attempt)


def _response(error: Exception) -> Any:
    return error.response if isinstance(error, HfHubHTTPError) else None


def _is_network_error(error: Exception) -> bool:
    return isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)


def _address(destination: Destination) -> str:
    folder = "" if destination.repo_type == "model" else f"{destination.repo_type}s/"
    return f"{constants.ENDPOINT}/{folder}{destination.repo_id}"


def _explain(error: Exception, destination: Destination) -> str:
    """Why it failed and what to do, in words."""
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids the network. Unset it and try again."
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token. Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
    if _is_network_error(error):
        return f"the server was not reached ({type(error).__name__}: {error}). Check the connection and try again."
    response = _response(error)
    if response is None:
        return str(error)
    status, namespace = response.status_code, destination.repo_id.rpartition("/")[0] or "its namespace"
    what_to_do = {
        401: "no valid token was given (401). Log in with `hf auth login`, or set HF_TOKEN to a token that may write.",
        403: f"the token may not write there (403). Use one with write access to {namespace}, another repository, or "
        "open a pull request (create_pr).",
        404: "there is no such repository, branch or right to see it (404). Check the name; a pull request needs a "
        "repository that is already there, otherwise it is made.",
        409: "somebody else is writing to it (409). Try again in a moment.",
        412: "somebody else is writing to it (412). Try again in a moment.",
        413: "a file is larger than the Hub takes (413).",
        429: "too many requests (429). Wait some minutes and try again.",
    }
    if status >= 500:
        return f"the server is in trouble ({status}). Try again later."
    return what_to_do.get(status, str(error))
