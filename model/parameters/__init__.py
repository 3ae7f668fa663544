"""Parameters: what each of them is, how it is drawn, in which format it is kept, multiplied and differentiated.

specs.py            role and axes of a parameter, and what follows from them
parametrization.py  how values and rates change with the size of the model
maker.py            makes parameters by rules of initial values, and records their specs
precision.py        number formats
mixed_precision.py  uses of a parameter in a wider format than activations
projections.py      products of activations with matrices
cpu_matmul.py       shapes of products that are fast on a CPU
quantized_weights.py  matrices of 8 or 4 bits, for inference
quantized_matmul.py   products with them
adapters.py         trained changes of low rank beside frozen matrices
"""

from model.exports import exports

__all__, __getattr__ = exports(
    __name__,
    adapters="DoRA LoRA",
    maker=(
        "ConstantValue FanIn Gaussian InverseSoftplus LecunNormal LogOfUniform Normal ParameterMaker "
        "specs_of stack_modules"
    ),
    mixed_precision="cast_like grouped_matmul lookup round_to_dtype weight_einsum",
    parametrization="CompleteP ModelGrowth MuP Standard",
    precision="Precision for_compute for_inference",
    quantized_weights="QuantizedWeights",
    projections="matmul project",
    specs="Growth Initializer Spec Traits is_frozen is_trained merge partition specs_by_name",
)
