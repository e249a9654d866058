"""Sets the precision of products on a card, for torch and for the generated kernels."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

import torch

from rnnbench.config import Fit, Precision

# Triton's names, which the generated kernels take.
IN_TRITON = {Precision.float32: "ieee", Precision.tf32x3: "tf32x3", Precision.tf32: "tf32"}


class TorchPrecision:
    """Sets the precision of torch's own products and of cuDNN, which is one setting of the whole process.

    Torch's default lets cuDNN's layers compute in TF32, and its other products in float32.
    """

    def __init__(self) -> None:
        self.changed = Condition()
        self.users = 0  # number of stacks that compute with the setting now
        self.tf32 = False

    @contextmanager
    def of(self, fit: Fit) -> Iterator[None]:
        """Compute in a trial's precision while the block lasts; a stack of another precision waits.

        On the CPU nothing is set: it has no TF32.
        """
        if fit.device == "cpu":
            yield
            return
        tf32 = fit.precision is Precision.tf32
        with self.changed:
            self.changed.wait_for(lambda: self.users == 0 or self.tf32 is tf32)
            self.users, self.tf32 = self.users + 1, tf32
            torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.backends.cudnn.allow_tf32 = tf32
        try:
            yield
        finally:
            with self.changed:
                self.users -= 1
                self.changed.notify_all()


torch_precision = TorchPrecision()
