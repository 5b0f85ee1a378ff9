import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What the command serves, in place of a server."""
    calls: dict = {}
    page = SimpleNamespace(block_thread=lambda: calls.update(blocked=True))

    def build(predictors) -> SimpleNamespace:
        calls["models"] = list(predictors)
        return page

    def launch(blocks, *arguments, block) -> str:
        assert blocks is page and not block
        calls["arguments"] = arguments
        return "http://here"

    monkeypatch.setitem(sys.modules, "kaseg.inference.app", SimpleNamespace(build=build, launch=launch))
    return calls


def test_models_are_served_on_this_machine_alone(kaseg, served) -> None:
    names = ["kaseg/mobilenetv2-os16-camvid-plain", "kaseg/mobilenetv2-os16-camvid-ka"]
    assert "http://here" in kaseg.succeed("demo", *names, names[0]).stdout
    assert served == {"models": names, "arguments": ("127.0.0.1", None, False), "blocked": True}


def test_without_a_name_it_is_the_default_model(kaseg, served) -> None:
    kaseg.succeed("demo", "--port", 8000, "--share")
    assert len(served["models"]) == 1 and served["arguments"] == ("127.0.0.1", 8000, True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a", "b", "--static", "page"], "a page of one model, got 2: a, b"),
        (["a", "--static", "page", "--share"], "needs no server: leave out --share"),
        (["a", "--static", "page", "--host", "0.0.0.0", "--port", "80"], "leave out --host, --port"),
        (["a", "--static", "page", "--device", "cuda"], "leave out --device"),
        (["a", "--onnxruntime-web", "."], "would change nothing without --static"),
    ],
)
def test_options_that_do_not_go_together(kaseg, served, arguments: list[str], message: str) -> None:
    assert message in " ".join(kaseg.fail("demo", *arguments).split())
