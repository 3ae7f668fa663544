"""Baselines from general-purpose compressors: the bits per byte that a language model should beat.

gzip and xz know nothing but the text itself. A model has seen the training text, so the fairer baseline is an xz that
has seen it too: the bytes that the text adds to the compressed training text, in one window large enough for both.
"""

import concurrent.futures
import dataclasses
import gzip
import lzma

# xz's own limit on its dictionary; its encoder takes about eleven times as much memory.
MAX_DICTIONARY_BYTES = 3 << 29
# Above this the primed xz would take minutes and gigabytes, so it is left out.
MAX_PRIMED_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A compressor, the bytes that it needs for the text, and its bits per byte of the text."""

    name: str
    compressed_bytes: int
    bits_per_byte: float


def text_baselines(text: bytes, primer: bytes | None = None) -> list[Baseline]:
    """Bits per byte of gzip -9, of xz -9e and, if a primer is given, of xz -9e primed with it.

    Args:
      text: the files, joined end to end.
      primer: the training text. Together with the text it must be under 256 MiB, or this baseline is left out.

    Raises:
      ValueError: for an empty text.
    """
    if not text:
        raise ValueError("an empty text has no bits per byte")
    with concurrent.futures.ThreadPoolExecutor() as pool:  # the compressors release the interpreter's lock
        gzipped = pool.submit(lambda: len(gzip.compress(text, compresslevel=9, mtime=0)))
        sizes = {"gzip -9": gzipped, "xz -9e": pool.submit(xz_size, text)}
        results = {name: size.result() for name, size in sizes.items()}
        if primer is not None and (window := len(primer) + len(text)) <= MAX_PRIMED_BYTES:
            with_text, primer_alone = pool.submit(xz_size, primer + text, window), pool.submit(xz_size, primer, window)
            results["xz -9e primed with the training text"] = with_text.result() - primer_alone.result()
    return [Baseline(name, size, 8 * size / len(text)) for name, size in results.items()]


def xz_size(data: bytes, window: int = 64 << 20) -> int:
    """The size of a .xz file made with preset 9e and a dictionary of `window` bytes (64 MiB is the preset's own)."""
    dictionary = min(max(window, 4096), MAX_DICTIONARY_BYTES)
    extreme = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, filters=[extreme]))
