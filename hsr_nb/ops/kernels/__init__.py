"""Triton kernels. Importing a module of this folder needs Triton; `hsr_nb.ops` does so only when a kernel is about to run."""
