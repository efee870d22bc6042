"""A GPU that is not there, for dry runs: torch's own CUDA code runs, on a CUDA runtime that computes nothing.

`card` says which GPU is emulated, `build` compiles the runtime (runtime.cpp, libraries.cpp) with g++, and `start` puts
it in the place of CUDA's before torch is imported, and reads what was asked of it. With `values` each operator computes
on the CPU after all. What is real: torch's allocator and so every peak of memory, its choice of kernels, its alerts
about determinism, autograd, DistributedDataParallel, Inductor, Triton and ptxas. What is not: time, cuDNN, NCCL (gloo
stands in), nvJPEG, and without `values` every number.
"""
