"""Attention kernels of libraries for TPUs."""
