"""The CUDA backend: kernels in `source/`, compiled by NVRTC for the card at hand, launched by CuPy.

Source, launch choice, compiling, device and checked call are apart: `source/`, `launch`, `compiled`, `device`,
`operators`. Nothing here imports CuPy or NVRTC before the first call.
"""

from rhobench.ops.cuda.compiled import prepare
from rhobench.ops.cuda.device import why_not

__all__ = ["prepare", "why_not"]
