"""The CUDA backend: kernels in `source/`, compiled by NVRTC for the GPU at hand and launched by CuPy.

The kernel source, the choice of a launch, the compiler, the device and the operators are separate: `source/`, `launch`,
`compiled`, `device`, `operators`. CuPy and NVRTC are imported on the first call.
"""

from rhobench.ops.backends import Backend
from rhobench.ops.cuda.compiled import prepare
from rhobench.ops.cuda.device import unavailable_reason
from rhobench.ops.cuda.operators import backward, forward

__all__ = ["BACKEND", "prepare", "unavailable_reason"]

BACKEND = Backend(
    name="cuda", device_type="cuda", forward=forward, backward=backward, unavailable_reason=unavailable_reason
)
