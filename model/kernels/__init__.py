"""attend(): the one door to attention, and the kernels behind it."""
