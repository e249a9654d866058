"""What computes a stack: the torch path for every cell, cuDNN when asked for.

`fit.kernel` chooses; the compiled CPU kernels will stand here, behind the same call.
"""

from rnnbench.config import Config, Kernel
from rnnbench.kernels.cudnn import CudnnNetwork
from rnnbench.network import Network


def make_network(config: Config, input_size: int, outputs: int) -> Network:
    """The network of a stack on the kernel that `fit.kernel` names; `auto` is the torch path."""
    kind = CudnnNetwork if config.fit.kernel is Kernel.cudnn else Network
    return kind(config.model, input_size, outputs)


def kernel_name(config: Config) -> str:
    """What the record says: the kernel that `fit.kernel` came down to."""
    return "cudnn" if config.fit.kernel is Kernel.cudnn else "torch"
