"""The kernel of JAX that reads pages on TPUs, as plain operations here: numbers, refusals, and no copy of the pool."""

import dataclasses

import pytest

from model.kernels import FOR_PAGES, choose
from model.kernels.tpu.pages import TPUPages
from tests.model.kernels.paged_matrix import BY_NAME, FEW, check, lowered, made_of_the_pool, problem, reason


def test_rows_in_random_pages_that_nan_surrounds():
    check(dataclasses.replace(FEW, lengths=(1, 40), kv_heads=1), TPUPages(interpret=True, keys=32))


@pytest.mark.sweep
@pytest.mark.parametrize("name", [name for name, case in BY_NAME.items() if case.width >= 128 and case.stored is None])
def test_every_case(name):
    check(BY_NAME[name], TPUPages(interpret=True, keys=128))


def test_it_lowers_and_copies_no_pool():
    asked, text = lowered(dataclasses.replace(FEW, lengths=(1, 400)), TPUPages(), "tpu", "tpu")
    assert "tpu_custom_call" in text
    assert made_of_the_pool(asked, text) == {"reshape"}


@pytest.mark.parametrize(
    ("case", "asked", "expected"),
    [
        ({}, {}, None),
        ({"softcap": 3.0}, {}, None),
        ({"width": 256}, {}, None),
        ({}, {"platform": "gpu"}, "it runs on a tpu, not on a gpu"),
        ({"stored": "int8"}, {}, "it would copy the scales of int8 pages for each number of a head"),
        ({"dtype": "float32"}, {}, "it takes bfloat16, not float32"),
        ({"width": 64}, {}, "its head widths are 128 and 256, not 64"),
        ({}, {"has_sinks": True}, "it has no sinks"),
    ],
)
def test_what_it_refuses(case, asked, expected):
    assert reason(TPUPages(), case, **{"platform": "tpu"} | asked) == expected


def test_it_refuses_tables_that_the_memory_of_scalars_does_not_hold():
    request = problem(FEW).request(platform="tpu")
    # 4 rows, 2 key heads, 4 bytes
    fits, larger = (dataclasses.replace(request.pages, count=count) for count in (30_720, 30_721))
    assert TPUPages().supports(dataclasses.replace(request, pages=fits)) is None
    assert TPUPages().supports(dataclasses.replace(request, pages=larger)) == (
        "its table of 984,064 bytes, 4 for each page of each row and key head, is over 983,040; larger pages make it "
        "smaller"
    )


def test_a_tpu_takes_it():
    assert str(choose(problem(FEW).request(platform="tpu"), FOR_PAGES)) == "tpu_pages"
