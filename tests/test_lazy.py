import pickle
import subprocess
import sys
from typing import Any

import pytest

import kaseg
import kaseg.distillation
import kaseg.evaluation
import kaseg.export
import kaseg.trainer

PACKAGES: list[Any] = [kaseg, kaseg.distillation, kaseg.evaluation, kaseg.export, kaseg.trainer]


def test_every_public_name_is_there_and_listed_and_no_other() -> None:
    for package in PACKAGES:
        assert set(package.__all__) <= set(dir(package))
        for name in package.__all__:
            value = getattr(package, name)
            assert getattr(package, name) is value
            assert name in vars(package)  # found without __getattr__ the second time
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            package.nothing  # noqa: B018


def test_star_import_aliases_and_pickling() -> None:
    names: dict[str, Any] = {}
    exec("from kaseg import *", names)
    assert set(kaseg.__all__) <= set(names)
    assert kaseg.KASegForSemanticSegmentation is kaseg.KASegModel
    assert pickle.loads(pickle.dumps(kaseg.KASegModel)) is kaseg.KASegModel
    assert kaseg.modeling_kaseg.KASegModel is kaseg.KASegModel


def test_modules_that_names_come_from_are_attributes() -> None:
    code = "import kaseg; print(kaseg.lazy.__name__, kaseg.trainer.__name__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["kaseg.lazy", "kaseg.trainer"]
