"""Attention kernels of libraries for GPUs."""
