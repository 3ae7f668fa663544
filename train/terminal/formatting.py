"""Formats numbers and names for people: counts, durations, metrics, paths. Bar, summary and report all use it.

The text of any number has at most 20 characters, so that the columns of a table stay aligned.
"""

import decimal
import math
import unicodedata

# Marks that change the direction of the text around them: a name with such a mark would look like another name.
_BIDI_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def format_count(value: float) -> str:
    """A count in three digits and a letter: 950, 12.3k, 4.56M, 7.9B, 1.2T; from 1000T on as 1e+15."""
    if not _is_finite(value):
        return format_number(value)
    if abs(value) >= 999.5e12:
        return _scientific(value, 3)
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            scaled = value / size
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}{letter}"
    value = value or 0  # -0.0 is 0 to a person
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.3g}"


def format_counted(count: int, noun: str) -> str:
    """A whole count and its noun, of which the plural ends in s: 1 document, 1,234 documents."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_bytes(value: float) -> str:
    """A number of bytes in three digits and a unit: 950 B, 12.3 kB, 4.56 MB, 7.90 GB."""
    text = format_count(value)
    number, letter = (text[:-1], text[-1]) if text[-1:].isalpha() else (text, "")
    return f"{number} {letter.replace('B', 'G')}B"


def format_duration(seconds: float) -> str:
    """A time in its two largest units: 8.1s, 45s, 3m 20s, 2h 05m, 4d 06h; from 100,000 days on in years."""
    if not _is_finite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{seconds or 0:.1f}s" if seconds > -1e6 else f"{format_count(seconds)}s"
    if seconds >= 8.64e9:
        return f"{format_count(seconds // 31_557_600)} years"
    whole = round(seconds)
    for unit, size, below, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part:02d}{below}"
    return f"{whole}s"


def format_number(value: float) -> str:
    """A measured value: 4 decimals near 1, more significant digits when tiny, separated thousands when large.

    From 10^15 on it is written as 1.014e+304.
    """
    if not _is_finite(value):
        return "NaN" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    size = abs(value)
    if size >= 1e15:
        return _scientific(value, 4)
    if float(value).is_integer():
        return f"{value or 0:,.0f}"  # -0.0 is 0 to a person
    if size < 1e-3:
        return f"{value:.3g}"
    if size < 10:
        return f"{value:.4f}"
    return f"{value:,.2f}" if size < 1e6 else format_count(value)


def format_fixed(value: float, decimals: int = 4) -> str:
    """A loss, or another value near 1, always with `decimals` decimals; far from 1 as `format_number` writes it."""
    return f"{value or 0:.{decimals}f}" if _is_finite(value) and abs(value) < 1e6 else format_number(value)


def format_percent(share: float) -> str:
    """A share in percent with one decimal: 31.2%."""
    if not _is_finite(share):
        return format_number(share)
    return f"{share or 0:.1%}" if abs(share) < 1e4 else f"{format_number(share)} x 100%"


def format_metric(name: str, value: float | str) -> str:
    """A named value as the progress bar and the log lines show it: "loss 2.3456", "12.3k tokens/s", "MFU 31.2%"."""
    words = name.replace("_", " ")
    if isinstance(value, str):
        return f"{words} {value}"
    if name.endswith("_per_second"):
        return f"{format_count(value)} {name.removesuffix('_per_second').replace('_', ' ')}/s"
    if name == "mfu":
        return f"MFU {format_percent(value)}"
    if name.endswith("_fraction"):
        return f"{words.removesuffix(' fraction')} {format_percent(value)}"
    if name == "loss" or name.endswith("_loss"):
        return f"{words} {format_fixed(value)}"
    return f"{words} {format_count(value) if isinstance(value, int) else format_number(value)}"


def _is_finite(value: float) -> bool:
    """Whether a number is neither NaN nor infinite, as an integer of any size is."""
    return isinstance(value, int) or math.isfinite(value)


def _scientific(value: float, digits: int) -> str:
    """A large number with `digits` digits and a power of ten, without the zeros at the end of the digits."""
    exact = decimal.Decimal(value if isinstance(value, int) else float(value))  # an integer may exceed every float
    mantissa, exponent = f"{exact:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"


def escape_unprintable(name: object) -> str:
    """A name or a path for one line of a terminal: characters that cannot be shown are escaped as in a Python string.

    These are control characters (among them line breaks and escape sequences), bytes of a path that are not UTF-8
    (which Python keeps as lone surrogates), and marks that change the direction of text.
    """
    text = str(name)
    if text.isprintable():  # most names are, and there may be very many documents
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNPRINTABLE or c in _BIDI_MARKS else c for c in text)


def escape_unprintable_lines(message: str) -> str:
    """A message of one or more lines, each escaped as in `escape_unprintable`."""
    return "\n".join(escape_unprintable(line) for line in message.split("\n"))


_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # controls, surrogates, separators of lines and paragraphs


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
