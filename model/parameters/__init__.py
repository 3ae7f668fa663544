"""Parameters: what each of them is, how it is drawn, in which format it is kept, multiplied and differentiated.

specs.py        role and axes of a parameter, and what follows from them
maker.py        makes parameters by rules of initial values, and records their specs
precision.py    number formats
gradients.py    uses of a parameter in a wider format than activations
projections.py  products of activations with matrices
cpu_matmul.py   shapes of products that are fast on a CPU
"""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    gradients="lookup narrowed rounded weigh weigh_groups",
    maker="Constant FanIn Gaussian InverseSoftplus LogUniform Normal ParameterMaker Truncated specs_of stacked",
    precision="Precision for_compute for_inference",
    projections="matmul project",
    specs="Spec Start Traits is_frozen is_trained merge named partition",
)
