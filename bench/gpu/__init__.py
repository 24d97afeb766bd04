"""`make bench-gpu`: environment, parity, kernels and whole steps on one NVIDIA GPU, in ten minutes."""
