from pathlib import Path

import pytest
from hub_server import TOKEN, HubServer
from huggingface_hub import constants

from kaseg.uploading import Destination, UploadError, upload

FILES = {"config.json": b'{"model_type": "kaseg"}', "model.safetensors": b"weights" * 1000}


def test_makes_the_repository_and_sends_everything_once(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# card")
    commit = upload({**FILES, "README.md": tmp_path / "card.md"}, Destination("me/new", private=True), "first")
    repo = hub.repo("me/new")
    assert repo.private and repo.files() == {**FILES, "README.md": b"# card"}
    assert repo.messages[-1] == ("main", "first") and commit.commit_url.startswith(hub.url)
    hub.requests.clear()
    upload(FILES, Destination("me/new"), "again")
    assert hub.count("PUT", "lfs") == hub.count("POST", "/commit/") == 0


def test_revisions_and_pull_requests(hub: HubServer) -> None:
    upload(FILES, Destination("me/new", revision="v2"), "branch")
    repo = hub.repo("me/new")
    assert repo.files("main") == {} and repo.files("v2") == FILES
    hub.add_repo("other/theirs")
    commit = upload(FILES, Destination("other/theirs", create_pr=True), "a gift")
    theirs = hub.repo("other/theirs")
    assert commit.pr_url and theirs.files("main") == {} and theirs.files("refs/pr/1") == FILES
    with pytest.raises(ValueError, match="create_pr or revision"):
        Destination("me/new", revision="v2", create_pr=True)


@pytest.mark.parametrize(
    ("method", "path", "failure"),
    [
        ("POST", "repos/create", {"status": 500}),
        ("POST", "/preupload/", {"status": 429, "headers": {"Retry-After": "7"}}),
        ("PUT", "/lfs-store/", {"status": 500}),
        ("PUT", "/lfs-store/", {"cut": True}),
        ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "7"}}),
        ("POST", "/commit/", {"status": 409}),
        ("POST", "/commit/", {"cut": True}),
        ("POST", "/commit/", {"delay": 0.2}),
    ],
)
def test_passing_trouble_is_outlasted(hub: HubServer, no_waiting: list, method: str, path: str, failure: dict) -> None:
    hub.fail(method, path, **failure)
    upload(FILES, Destination("me/new"), "message")
    assert hub.repo("me/new").files() == FILES
    if "headers" in failure:
        assert min(wait for wait in no_waiting if wait >= 1) >= 7, "Retry-After is heeded"


@pytest.mark.parametrize(
    ("path", "failure", "advice"),
    [
        ("/lfs-store/", {"status": 500}, "in trouble (500). Try again later"),
        ("/commit/", {"status": 429}, "too many requests (429). Wait"),
        ("/commit/", {"status": 409}, "somebody else is writing to it (409)"),
        ("/commit/", {"status": 500}, "in trouble (500). Try again later"),
        ("repos/create", {"cut": True}, "was not reached"),
        ("/commit/", {"status": 401}, "hf auth login"),
    ],
)
def test_lasting_trouble_is_explained(hub: HubServer, no_waiting: list, path: str, failure: dict, advice: str) -> None:
    hub.fail("PUT" if "lfs" in path else "POST", path, times=100, **failure)
    with pytest.raises(UploadError) as error:
        upload(FILES, Destination("me/new"), "message")
    assert advice in str(error.value) and "me/new" in str(error.value)


def test_no_rights(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UploadError, match=r"may not write there \(403\).*other"):
        upload(FILES, Destination("other/new"), "message")
    with pytest.raises(UploadError, match=r"no such repository.*\(404\)"):
        upload(FILES, Destination("me/none", create_pr=True), "message")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UploadError, match=r"no valid token.*hf auth login"):
        upload(FILES, Destination("me/new"), "message")
    upload(FILES, Destination("me/new", token=TOKEN), "with its own token")
    assert hub.repo("me/new").files() == FILES


def test_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE forbids the network"):
        upload(FILES, Destination("me/new"), "message")
