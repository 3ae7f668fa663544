"""Taps: named intermediates that a caller keeps or edits.

meanings.py  the list of all names, with axes and meanings
request.py   the taps that a caller asks for: names, layers, edits
collect.py   collects kept taps while layers run
"""

from model.exports import exports

__all__, __getattr__ = exports(__name__, collect="TapCollector", meanings="Meaning table", request="Tap TapSite Taps")
