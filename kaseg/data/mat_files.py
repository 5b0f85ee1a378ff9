"""Label masks in MATLAB files, as PASCAL Context and the Semantic Boundaries Dataset (SBD) publish them."""

from __future__ import annotations

import io

import numpy as np

# Where the two data sets keep the mask: a variable, and the field in it if it is a struct.
VARIABLES = (("LabelMap", None), ("GTcls", "Segmentation"))


def read_mat_mask(content: bytes) -> np.ndarray:
    """The mask of a MATLAB file: `LabelMap` (Mottaghi et al. 2014) or `GTcls.Segmentation` (Hariharan et al. 2011).

    Args:
        content: The bytes of the file.

    Returns:
        Integer array (H, W).

    Raises:
        ValueError: If it is not a MATLAB file or holds no such mask.
    """
    from scipy.io import loadmat  # costs half a second, and few need it

    try:
        variables = loadmat(io.BytesIO(content), struct_as_record=False)
    except Exception as error:  # scipy raises whatever the broken bytes run into
        raise ValueError(f"not a readable MATLAB file ({type(error).__name__}: {error})") from error
    for variable, field in VARIABLES:
        if variable in variables:
            found = variables[variable]
            mask = np.asarray(found if field is None else getattr(found.flat[0], field, None))
            if mask.ndim != 2 or mask.dtype.kind not in "iu":
                raise ValueError(f"{variable} holds {mask.dtype} of shape {mask.shape}, not a mask of integers (H, W)")
            return mask
    names = sorted(name for name in variables if not name.startswith("__"))
    raise ValueError(f"it holds {', '.join(names) or 'nothing'}, and neither LabelMap nor GTcls.Segmentation")
