"""The weights in an ONNX file, for tests that look at them."""

import numpy as np
import onnx
from onnx import numpy_helper


def weights_of(onnx_bytes: bytes) -> dict[str, np.ndarray]:
    """Initializer name -> array."""
    return {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(onnx_bytes).graph.initializer
    }
