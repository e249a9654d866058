"""Tells what card a device is, or why there is none; nothing else asks torch and Triton about cards."""

import ctypes
import os
import re
import warnings
from dataclasses import dataclass
from functools import cache

import torch

GENERATED = (7, 0)  # least compute capability that Triton compiles for
TF32 = (8, 0)  # least compute capability with products in TF32; below it Triton takes float32 in silence


@dataclass(frozen=True)
class Card:
    """A graphics card."""

    name: str
    capability: tuple[int, int]  # compute capability, such as (9, 0)
    memory: int  # bytes in all
    driver: str | None  # version of the driver; None where it cannot be found out
    multiprocessors: int = 1  # parts of the card that compute side by side

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def count() -> int:
    """Count the cards that torch sees."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns in several lines of what `missing` says in one
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


@cache
def card(device: str) -> Card:
    """Return the card that is this device; torch has to see it."""
    found = torch.cuda.get_device_properties(device)
    capability = found.major, found.minor
    return Card(found.name, capability, found.total_memory, driver(), found.multi_processor_count)


def free(device: str) -> int:
    """Return the free bytes of a card, and those that torch holds and nothing uses."""
    held: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def driver() -> str | None:
    """Ask NVIDIA's management library for the version of the driver; None where it is not there."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    text = ctypes.create_string_buffer(96)
    failed = library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(text, len(text))
    return None if failed else text.value.decode()


def triton_version() -> str | None:
    """Return the version of Triton; None where it is not installed, or cannot be imported."""
    try:
        import triton
    except ImportError:
        return None
    found: str = triton.__version__
    return found


def missing() -> str:
    """Say in a line why torch sees no card, and what would help."""
    built = f"torch {torch.__version__}"
    if not torch.backends.cuda.is_built():
        return f"{built} is built without CUDA; install a torch with CUDA (https://pytorch.org)"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible.strip()} hides all cards; unset it, or ask for a card"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a damaged installation of CUDA
        said = str(error).splitlines()[0]
    else:
        said = "torch sees no card"
    if "no NVIDIA driver" in said:
        return "there is no NVIDIA driver on this machine; install one if it has a card"
    if old := re.search(r"too old \(found version (\d+)\)", said):
        runs = f"{int(old[1]) // 1000}.{int(old[1]) % 1000 // 10}"
        return (
            f"the NVIDIA driver is too old: it runs CUDA {runs}, and {built} has CUDA {torch.version.cuda}; "
            f"install a newer driver, or a torch for CUDA {runs}"
        )
    hides = f"; CUDA_VISIBLE_DEVICES={visible} names no card of this machine" if visible else ""
    return f"no card can be used ({said.rstrip('.')}){hides}; nvidia-smi tells more"


def broken(device: str) -> str | None:
    """Compute on a card; say in a line why that fails, None if it does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (torch.ones(2, device=device) + 1).tolist()
    except RuntimeError as error:
        said = str(error).splitlines()[0].rstrip(".")
        has = ", ".join(torch.cuda.get_arch_list())
        return f"{card(device)}, does not compute ({said}); torch {torch.__version__} has kernels for {has}"
    return None


def unfit(device: str) -> str | None:
    """Say in a few words why kernels are not generated for a card; None if they are, or it is elsewhere."""
    if triton_version() is None:
        return "Triton, which compiles kernels for cards, is not installed"
    if count() and card(device).capability < GENERATED:
        return f"{card(device)} is too old for Triton, which needs 7.0"
    return None


def without_tf32(device: str) -> str | None:
    """Say in a few words why a card has no products in TF32; None if it has."""
    if card(device).capability < TF32:
        return f"{card(device)} has no TF32, which needs 8.0"
    return None


def tags(device: str, precision: str) -> dict[str, str]:
    """Return what a record says about the card of a trial; nothing of a CPU, or of a card elsewhere."""
    if device == "cpu" or not count():
        return {}
    here = card(device)
    found = {
        "rnnbench.card": here.name,
        "rnnbench.card_number": device.partition(":")[2] or "0",
        "rnnbench.capability": ".".join(map(str, here.capability)),
        "rnnbench.driver": here.driver,
        "rnnbench.precision": precision,
        "rnnbench.version.cuda": torch.version.cuda,
        "rnnbench.version.triton": triton_version(),
    }
    return {name: fact for name, fact in found.items() if fact}
