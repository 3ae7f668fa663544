"""The operations of the matrix products of a traced function."""

import math


def matmul_flops(jaxpr, scans=False):
    """Counts the operations of all matrix products of a traced function, including the bodies of nested functions."""
    total = 0
    for equation in jaxpr.eqns:
        assert scans or equation.primitive.name != "scan", "a scan would be counted once"
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            total += 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
        if equation.primitive.name == "ragged_dot_general":
            total += ragged_flops(equation)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += matmul_flops(inner, scans) if hasattr(inner, "eqns") else 0
    return total


def ragged_flops(equation):
    """Counts the operations of a product of each row with the matrix of its group: rows x inputs x outputs."""
    left, right = (v.aval.shape for v in equation.invars[:2])
    out = equation.outvars[0].aval.shape
    # Forward and to the rows: (rows, K) by (groups, K, N). To the weights: (rows, K) by (rows, N) to (groups, K, N).
    return 2 * math.prod(left) * (out[-1] if len(right) == 3 else right[-1])
