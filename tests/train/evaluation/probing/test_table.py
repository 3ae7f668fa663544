from tests.train.evaluation.probing.samples import RESULTS
from train.evaluation.probing.table import baseline_rows, number_rows, table


def test_rows_have_errors_where_they_are_known():
    found = RESULTS.entries[0].findings
    assert list(number_rows(found)) == [("loss", "1.2500", "0.0100"), ("accuracy", "50.0%", "")]
    assert list(baseline_rows(found)) == [("loss of: bigram", "0.8800")]


def test_the_table_names_run_probe_and_numbers():
    lines = table(RESULTS).splitlines()
    assert lines[0] == "runs/<a>, step 1200; 64 sequences of each probe, seed 0"
    assert "markov: MarkovChains(num_states=3, length=100, concentration=1.0)" in lines
    assert [line.split() for line in lines[3:6]] == [
        ["loss", "1.2500", "+-", "0.0100"],
        ["accuracy", "50.0%"],
        ["loss", "of:", "bigram", "0.8800"],
    ]
