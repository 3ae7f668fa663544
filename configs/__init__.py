"""Experiments, one Python file each. An ablation is a file that names a base and changes one thing."""
