import gzip
import lzma
import random
import shutil
import subprocess

import pytest

from train.evaluation.baselines import text_baselines, xz_size

WORDS = [f"word{n}" for n in range(300)]


def text(seed, words=4000):
    draw = random.Random(seed)
    return " ".join(draw.choices(WORDS, k=words)).encode()


def test_sizes_are_those_of_the_compressors():
    data = text(0)
    found = {b.name: b for b in text_baselines(data)}
    assert found.keys() == {"gzip -9", "xz -9e"}
    assert found["gzip -9"].compressed_bytes == len(gzip.compress(data, 9))
    assert found["xz -9e"].compressed_bytes == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    for baseline in found.values():
        assert baseline.bits_per_byte == 8 * baseline.compressed_bytes / len(data)


@pytest.mark.skipif(shutil.which("xz") is None, reason="there is no xz here")
def test_xz_is_the_command():
    data = text(1)
    assert xz_size(data) == len(subprocess.run(["xz", "-9e", "-c"], input=data, capture_output=True, check=True).stdout)


def test_a_primer_helps_when_it_holds_the_text_and_hardly_when_not():
    data = text(2)
    plain, unrelated, same = (
        {b.name: b.compressed_bytes for b in text_baselines(data, primer)}
        for primer in (None, text(3), text(4) + data + text(5))
    )
    primed = "xz -9e primed with the training text"
    assert primed not in plain
    assert same[primed] < 0.05 * plain["xz -9e"]
    assert 0.8 * plain["xz -9e"] < unrelated[primed] < 1.02 * plain["xz -9e"]


def test_the_window_of_the_primed_xz_reaches_back_over_everything():
    data = random.Random(6).randbytes(3000)
    filler = random.Random(7).randbytes(200_000)
    assert xz_size(data + filler + data, 100_000) > 205_000  # the repetition is out of reach
    assert xz_size(data + filler + data, 300_000) < 204_000


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="empty"):
        text_baselines(b"")
