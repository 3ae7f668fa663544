from typing import Any

from model.options.assignments import override
from model.options.difference import differences
from model.options.json import to_json
from tests.model.carts import CART, Cart, Ski, Wheel


def test_differences():
    old = to_json(CART)
    new: dict[str, Any] = to_json(Cart(name="two", runner=Ski(length=1.5), limit=3, wheels=(Wheel(),)))
    assert differences(old, old) == []
    assert differences(old, new) == [
        "limit: None -> 3",
        "name: 'one' -> 'two'",
        "runner: Wheel(radius=0.3, spokes=32) -> Ski(length=1.5)",
        f"wheels: {old['wheels']!r} -> {new['wheels']!r}",
    ]
    assert differences(old, to_json(override(CART, "runner.spokes=8")), "cart") == ["cart.runner.spokes: 32 -> 8"]
    assert differences(old, to_json(override(CART, "spare=Wheel"))) == ["spare: None -> Wheel(radius=0.3, spokes=32)"]
    del new["limit"]
    assert "limit: 3 -> None" in differences(to_json(override(CART, "limit=3")), new)
