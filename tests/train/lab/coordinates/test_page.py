"""The page of a coordinate check holds its tables and charts, and refers to nothing outside itself."""

import re

from tests.train.lab.coordinates.test_words import SWEEP
from train.lab.coordinates.page import render


def test_the_page():
    flat = SWEEP.__class__(**vars(SWEEP) | {"parametrization": "MuP", "curves": SWEEP.curves[:2]})
    page = render([flat, SWEEP], 'configs/<x>.py "quoted"')
    assert "<h2>Against width</h2>" in page
    assert "configs/&lt;x&gt;.py &#34;quoted&#34;" in page
    assert "Standard: NOT flat in width (steepest: logits change, slope +inf)" in page
    assert page.count("<svg viewBox") == 1 + len(flat.curves)
    assert "Slopes: MuP +1.00 ± 0.02, Standard +1.00 ± 0.02." in page
    assert not re.search(r"(?:src|href)=\"(?!data:)(?!#)", page.replace('xmlns:xlink="http', ""))
