"""What tokamax's grouped products refuse; on a GPU tests/benchmarks/kernel_matrix.py has their numbers."""

from model.kernels.experts.tokamax import TokamaxRaggedDot
from tests.model.kernels.experts.test_grouped_products import request


def test_what_tokamax_refuses(monkeypatch):
    monkeypatch.setattr("model.kernels.experts.tokamax.is_installed", lambda: False)
    assert TokamaxRaggedDot().supports(request(platform="gpu")) == "it is not installed: pip install -e '.[tokamax]'"
    monkeypatch.setattr("model.kernels.experts.tokamax.is_installed", lambda: True)
    assert TokamaxRaggedDot().supports(request(platform="gpu")) is None
    assert "9.0 or 10.0" in TokamaxRaggedDot().supports(request(platform="gpu", compute_capability=(8, 0)))
