"""Makes kernels from the traced step of a cell; needs nothing but the standard library."""
