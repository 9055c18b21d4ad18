"""Lets torchvision import beside a PyTorch that lacks its compiled operators (CPU wheels on some machines).

open_clip and transformers import torchvision for picture transforms alone, which need no operator; declaring the
operators' names is enough. Also keeps PyTorch to two threads.
"""

OPERATORS = (
    "nms qnms roi_align _roi_align_backward qroi_align ps_roi_align _ps_roi_align_backward roi_pool "
    "_roi_pool_backward ps_roi_pool _ps_roi_pool_backward deform_conv2d _deform_conv2d_backward"
)


def declare_torchvision_operators() -> object | None:
    """Declares the operators where they are missing; returns the library, which must be kept alive."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(2)
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        import sys

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # the failed import left half a module behind
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS.split():
            library.define(f"{name}(Tensor x) -> Tensor")
        return library
    return None


LIBRARY = declare_torchvision_operators()
