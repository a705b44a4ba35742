"""Triton kernels, imported by `hsr_nb.ops` only where Triton is and a kernel is about to run."""
