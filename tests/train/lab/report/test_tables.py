import csv
import io
import math
import re

from train.lab.report.tables import _md, _tex, latex, markdown, runs_csv, summary_table


def test_csv_has_a_line_for_every_declared_run(broken):
    lines = list(csv.DictReader(io.StringIO(runs_csv(broken))))
    assert len(lines) == 15
    found = {(line["variant"], line["seed"]): line for line in lines}
    wide = found["wide", "1"]
    run = broken.results.variants["wide"].runs[1]
    assert float(wide["loss"]) == run.final["loss"]
    base = broken.results.variants["base"].runs[1]
    assert float(wide["difference"]) == run.final["loss"] - base.final["loss"]
    assert (wide["state"], wide["step"], wide["tokens"], wide["detail"]) == ("finished", "200", "12800", "")
    assert float(wide["parameters"]) == broken.results.variants["wide"].sizes.parameters
    missing, failed, diverged = found["same", "1"], found["slow", "2"], found["hot_100%", "1"]
    assert float(wide["wiki/loss"]) == run.final["wiki/loss"]
    assert (missing["state"], missing["loss"], missing["difference"], missing["tokens"]) == ("missing", "", "", "")
    assert (failed["state"], failed["step"], failed["loss"]) == ("failed", "120", "")
    assert "the disk is full" in failed["detail"]
    assert (diverged["state"], diverged["loss"]) == ("diverged", "nan")


def test_the_table_leaves_out_columns_without_anything(finished, broken):
    head, rows = summary_table(finished)
    assert head == [
        *("variant", "loss", "seeds", "difference", "95% interval", "p", "verdict", "effect"),
        *("tokens/s", "FLOPs", "parameters", "memory"),
    ]
    assert [row[0] for row in rows] == ["wide", "base", "same", "slow"]
    assert rows[0][6] == "better"


def test_markdown(broken):
    text = markdown(broken)
    both = [line for line in text.splitlines() if line.startswith("|")]
    assert len(both) == 2 * (2 + 5)
    for table in (both[:7], both[7:]):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert both[7] == "| variant | wiki/loss | difference |"
    assert "- 1 of 15 runs: failed (slow seed 2)." in text
    assert r"hot\_100%" in text
    assert r"Claim, fixed before the runs: difference \<= -0.03, p \< 0.05" in text
    assert "- slow: not judged" in text
    assert _md("a|b\n*c*") == r"a\|b \*c\*"


def test_latex(broken):
    text = latex(broken)
    body, others = text[text.index(r"\begin{tabular}") :].split("% the other evaluations\n")
    assert others.count(r"\\") == 1 + 5
    assert others.startswith(r"\begin{tabular}{lrr}")
    assert r"variant & wiki/loss & $\Delta$ \\" in others
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = re.match(r"\\begin\{tabular\}\{(\w+)\}", body)[1]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {len(columns)}
    assert body.count(r"\toprule") == body.count(r"\midrule") == body.count(r"\bottomrule") == 1
    assert r"\textbf{wide}" in body
    assert r"hot\_100\%" in body
    assert r"$5.21\times 10^{9}$" in body
    assert not set(body) & set("\u2212\u00b1\u2013")
    assert "% 1 of 15 runs: failed (slow seed 2)." in text
    assert "% A variant in bold is shown to be better than the base." in text
    assert all(
        line.startswith(("%", "\\")) or line in rows or not line for line in text.splitlines()[: -others.count("\n")]
    )


def test_latex_escapes():
    assert _tex("a_b & c% #1 {x} ~^ \\ $<") == (
        r"a\_b \& c\% \#1 \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{} \$\textless{}"
    ).replace(r"\textasciitilde{}\t", r"\textasciitilde{}\t")
    assert _tex("[\u22121]") == "{[}$-$1]"


def test_numbers_keep_all_digits(finished):
    lines = list(csv.DictReader(io.StringIO(runs_csv(finished))))
    values = [run.final["loss"] for row in finished.rows for run in row.variant.runs.values()]
    assert [float(line["loss"]) for line in lines] == values
    assert not any(math.isnan(float(line["seconds"])) for line in lines)
