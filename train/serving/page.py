"""The page to chat in: one file without a link to anywhere, so that it works offline."""

from train.report.template import fill
from train.serving.parameters.options import Served


def page(served: Served, *, needs_key: bool) -> str:
    """The HTML of the page; for a model without a chat template it continues texts instead."""
    return fill(
        "train.serving",
        "page.html",
        name=served.name,
        context=served.context_length,
        chat=served.chat is not None,
        needs_key=needs_key,
    )
