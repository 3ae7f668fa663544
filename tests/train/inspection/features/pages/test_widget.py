"""The data of the page: bins without empty ends, texts of tokens."""

import numpy as np

from train.data.config import Bytes
from train.data.tokenizers.interface import BytesTokenizer
from train.inspection.features.pages.top_texts import EDGES, Collected, Example, Unit
from train.inspection.features.pages.widget import units_widget


def test_units_as_json():
    counts = np.zeros(len(EDGES) - 1, np.int64)
    counts[[4, 6]] = 2, 1
    example = Example(np.array([104, 105], np.int32), np.array([0.0, 1.5], np.float32), 1)
    units = [Unit(9, [example], 3, counts), Unit(2, [], 0, np.zeros_like(counts))]
    logits = np.arange(2.0)[:, None] * np.linspace(-1, 1, 257)
    widget = units_widget(Collected(units, 30), BytesTokenizer(Bytes()), logits, "Features", "feature")
    first, second = widget.data["units"]
    assert first["density"] == 0.1
    assert first["counts"] == {"edges": [EDGES[4], EDGES[7]], "counts": [2, 0, 1]}
    assert first["examples"] == [{"tokens": ["h", "i"], "activations": [0.0, 1.5], "peak": 1}]
    assert second["counts"] == {"edges": [], "counts": []}
    assert second["promoted"][:2] == [["<end>", 1.0], ["id 255", 0.992]]
    assert second["suppressed"][0][1] == -1.0
