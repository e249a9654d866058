"""Computes a stack on a GPU with Triton kernels that are generated from the graph of a cell's step."""
