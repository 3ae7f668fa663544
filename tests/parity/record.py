"""Records the numbers of `transformers` for small models, so that tests need neither it nor torch.

    python -m tests.parity.record [FAMILY ...]

Writes tests/fixtures/families/FAMILY/NUMBER: config.json and model.safetensors as `transformers` saves them, and
expected.npz with tokens, logits of whole rows and of their first halves, and the norm of every tensor's gradient and
its product with a fixed vector. Where positions depend on the length of the text, greedy texts too.
"""

import pathlib
import shutil
import sys
import tempfile

import numpy as np

from tests.benchmarks.command import answer_help
from tests.parity.cases import CASES
from tests.parity.ours import GRADIENT_OF, fingerprint

answer_help(__name__, __doc__)
from tests.parity import reference  # noqa: E402
from tests.parity.sources import source_of  # noqa: E402

FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "families"


def reads_lengths(shape):
    """Returns whether rotary positions are scaled by the length of the text."""
    scaling = shape.get("rope_scaling") or {}
    return scaling.get("rope_type", scaling.get("type")) in ("dynamic", "longrope")


def record(family):
    """Writes the fixtures of a family."""
    source = source_of(family)
    shutil.rmtree(FIXTURES / family, ignore_errors=True)
    for number, shape in enumerate(CASES[family]):
        model, ids = source.make(family, shape), reference.tokens(family, shape)
        folder = FIXTURES / family / str(number)
        folder.mkdir(parents=True)
        source.save(model, folder)
        with tempfile.TemporaryDirectory() as there:
            gradients = source.gradients(model, ids, there)
        np.savez_compressed(
            folder / "expected.npz",
            tokens=ids.astype(np.int32),
            logits=source.logits(model, ids),
            halves=source.logits(model, ids[:, : reference.HALF]),
            **({"greedy": source.greedy(model, ids)} if reads_lengths(CASES[family][shape]) else {}),
            **{GRADIENT_OF + name: fingerprint(x) for name, x in gradients.items()},
        )
        print(f"{family}/{number}: {sum(path.stat().st_size for path in folder.iterdir()) / 1024:.0f} KiB  {shape}")


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        record(name)
