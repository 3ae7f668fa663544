"""Positions: absolute ones, rotary ones and their scaling, linear biases."""
