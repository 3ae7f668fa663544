"""Tables of the terminal: domains, details, lengths, and two models."""

import dataclasses

import numpy as np
import pytest

from tests.train.evaluation.bench.test_pairs import BASE, OTHER, result
from train.evaluation.bench.lengths import LengthResult
from train.evaluation.bench.pairs import compare
from train.evaluation.details import DetailSums, TokenScores, measure_details
from train.evaluation.output.tables import MAX_DOMAINS, lengths_table, pair_detail_rows, pair_table, result_table


def details():
    sums = DetailSums.empty(8)
    sums.add(TokenScores(np.full(8, 2.0), np.full(8, 1.5), np.full(8, 0.5), np.array([0, 1, 2, 3, 4, 5, 6, 7])), 1)
    return measure_details([sums, sums], 8)


def row(table, start):
    (found,) = [line for line in table.splitlines() if line.strip().startswith(start)]
    return found.strip()


def test_domains_are_rows_with_their_mean():
    table = result_table(result(BASE, domains="ab"), "t.jsonl")
    assert row(table, "domain ").split("  ")[0] == "domain"
    assert row(table, "a ").count("±") == row(table, "mean of the domains").count("±") == 4
    assert "domain" not in result_table(result(BASE), "t.jsonl")
    assert "every domain is one document: standard errors are over the domains" in result_table(
        result(BASE[:2], domains="ab"), "t.jsonl"
    )
    many = result_table(result([2.0] * 50, domains=[f"d{i}" for i in range(50)]), "t.jsonl")
    assert f"and {50 - MAX_DOMAINS} domains more: see --json" in many
    assert "d39" in many
    assert "d40" not in many
    assert "mean of the domains" in many


def test_details_are_rows():
    table = result_table(dataclasses.replace(result(BASE), details=details()), "t.txt")
    assert row(table, "accuracy").split()[1] == "12.5%"
    assert row(table, "among the 5 likeliest").split()[4] == "62.5%"
    assert row(table, "entropy per token").split()[3] == "1.5000"
    assert row(table, "calibration error").split()[2] == "0.3750"
    assert row(table, "5 to 8").split() == ["5", "to", "8", "8", "2", "0"]


def test_windows_that_no_document_fills_are_noted():
    assert "the longest document has" not in result_table(result(BASE), "t.txt")
    assert "the longest document has 46 scored tokens: no window was full" in result_table(
        dataclasses.replace(result(BASE), window=100), "t.txt"
    )


@pytest.mark.parametrize("same", [True, False])
def test_two_models_have_a_column_each(same):
    pair = compare(result(BASE, domains="ab"), result(OTHER, domains="ab"), same_tokenizer=same, draws=99)
    table = pair_table(pair, "t.txt")
    difference = pair.measures["bits_per_byte"].difference
    assert f"{difference.low:+.4f} to {difference.high:+.4f}" in row(
        table.split("bits per byte of")[0], "bits per byte"
    )
    assert ("per token" in table.replace("never per token", "")) == same
    assert ("compared per byte and per character, never per token" in table) != same
    assert row(table, "bits per byte of").split()[-1] == "p"
    alone = pair_table(compare(result(BASE[:1]), result(OTHER[:1]), same_tokenizer=same), "t.txt")
    assert "there is no interval over documents: they are too few" in alone


def test_details_of_two_models_are_compared_where_their_tokens_are_the_same():
    one, two = (dataclasses.replace(result(each), details=details()) for each in (BASE, OTHER))
    table = pair_table(compare(one, two, same_tokenizer=True, draws=99), "t.txt")
    assert row(table, "among the 5 likeliest").split()[-2:] == ["62.5%", "62.5%"]
    assert row(table, "entropy per token").split()[-2:] == ["1.5000", "1.5000"]
    other = pair_table(compare(one, two, same_tokenizer=False, draws=99), "t.txt")
    assert "12.5%" not in other
    assert "entropy and calibration are per token: these models are not compared by them" in other


@pytest.mark.parametrize("name", ["A", "B"])
def test_details_of_one_of_two_models_stand_beside_a_dash(name):
    two = {"A": result(BASE), "B": result(OTHER)}
    two[name] = dataclasses.replace(two[name], details=details())
    pair = compare(*two.values(), same_tokenizer=True, draws=99)
    assert pair_detail_rows(pair)[2] == ["entropy per token", *("1.5000" if each == name else "-" for each in two)]
    assert f"accuracy, entropy and calibration were measured of {name} alone" in pair_table(pair, "t.txt")
    neither = compare(result(BASE), result(OTHER), same_tokenizer=True, draws=99)
    assert pair_detail_rows(neither) == []
    assert "calibration" not in pair_table(neither, "t.txt")


def test_lengths_are_rows():
    results = [LengthResult(8, 0.5, result(BASE)), LengthResult(128, 8.0, result(OTHER))]
    table = lengths_table(results)
    assert row(table, "8 ").split()[:2] == ["8", "0.5"]
    assert row(table, "128").split()[2] == f"{results[1].result.measures['loss'].value:.4f}"
    assert "the 12 documents that fill the longest window" in table
    assert "the one document that fills the longest window" in lengths_table([LengthResult(8, 0.5, result(BASE[:1]))])


def test_documents_that_the_tokenizer_does_not_restore_are_counted():
    some = [result_table(dataclasses.replace(result(BASE), documents_not_restored=n), "t.txt") for n in (0, 1, 2)]
    assert "WARNING" not in some[0]
    assert "WARNING: the tokenizer loses characters of 1 document, of which" in some[1]
    assert "WARNING: the tokenizer loses characters of 2 documents, of which" in some[2]
