"""Computes a stack on a GPU with Triton kernels that are generated from the graph of a cell's step."""

import os

# A product and its sum are rounded once. Triton 3.9 warns where this is left to it; 3.10 rounds twice.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
