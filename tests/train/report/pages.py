"""A run folder with every file, and its page read back, for the tests of reports."""

import html.parser
import json
import math

from train.report import write_report
from train.run.metrics import MetricsWriter

NASTY = "<script>alert(1)</script> & \x00\x1b[31m \u00e9"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and collects tags with their attributes and the text outside of style."""

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.words, self.ids = [], [], [], []
        self.feed(source)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids)), "an id stands twice"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def fill(folder, steps, broken=()):
    """Writes all files of a finished run, in which some steps have no finite loss."""
    with MetricsWriter(folder, tensorboard=False) as writer:
        for step in range(1, steps + 1):
            loss = math.nan if step in broken else 2.0 + 6.0 * math.exp(-step / 50)
            writer.train(
                step, {"loss": loss, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens": 64 * step, "skipped": 0}
            )
            if step % 100 == 0:
                writer.evaluation(step, {"loss": loss + 0.1, "perplexity": math.exp(loss + 0.1), "bits_per_byte": 1.25})
                writer.throughput(step, {"seconds": step / 10, "tokens_per_second": 640.0, "mfu": 0.3})
                writer.sample(step, f"{NASTY} from {step}")
        writer.status("finished", steps, total_steps=steps)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "type": "Experiment",
                "model": {"type": "Decoder", "position": {"type": "Rotary", "theta": 1e4}},
                "name": NASTY,
            }
        )
    )
    array = {
        "name": "embedding",
        "shape": [16, 8],
        "axes": ["vocab", "embed"],
        "spec": [None, ["fsdp", "tensor"]],
        "count": 128,
    }
    (folder / "parameters.json").write_text(json.dumps([array, array | {"name": NASTY, "count": 72}]))
    (folder / "environment.json").write_text(
        json.dumps(
            [
                {
                    "session": 1,
                    "started": "2026-01-02T03:04:05+00:00",
                    "git": {"revision": "abc" * 10, "diff": NASTY, "dirty": True},
                }
            ]
        )
    )
    (folder / "evaluation.json").write_text(
        json.dumps(
            {
                "validation": {"loss": 2.0625, "perplexity": 7.866, "bits_per_byte": 1.5, "tokens": 4000},
                "baselines": [{"name": "gzip -9", "bits_per_byte": 1.96}, {"name": NASTY, "bits_per_byte": 1.25}],
                "samples": {"count": 8, "parsed": 6},
            }
        )
    )


def page_of(folder):
    """The page of a run folder, written and read."""
    return Page(write_report(folder).read_text(encoding="utf-8"))
