from __future__ import annotations

import io

import numpy as np
import official_layouts as official
import pytest
from scipy.io import savemat

from kaseg.data.mat_files import read_mat_mask


def _mat(**variables) -> bytes:
    stream = io.BytesIO()
    savemat(stream, variables)
    return stream.getvalue()


@pytest.mark.parametrize(("kind", "dtype"), [("GTcls", np.uint8), ("LabelMap", np.uint16)])
def test_published_masks(tmp_path, kind, dtype):
    raw = official.write_mat(tmp_path / "a.mat", [0, 3, 20], kind)
    mask = read_mat_mask((tmp_path / "a.mat").read_bytes())
    assert mask.dtype == dtype
    np.testing.assert_array_equal(mask, raw)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_thin_masks_keep_their_shape(shape):
    assert read_mat_mask(_mat(LabelMap=np.ones(shape, np.uint16))).shape == shape


def test_other_content():
    with pytest.raises(ValueError, match="holds inst, other, and neither LabelMap nor GTcls"):
        read_mat_mask(_mat(other=1, inst=2))
    with pytest.raises(ValueError, match="LabelMap holds float64"):
        read_mat_mask(_mat(LabelMap=np.zeros((2, 2))))
    with pytest.raises(ValueError, match="GTcls holds object"):
        read_mat_mask(_mat(GTcls={"Boundaries": 1}))
    for broken in (b"", b"no MATLAB", _mat(LabelMap=np.zeros((9, 9), np.uint8))[:200]):
        with pytest.raises(ValueError, match="not a readable MATLAB file"):
            read_mat_mask(broken)
