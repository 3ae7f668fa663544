"""The flags of `launch.evaluate` for other evaluations than that of text: probes, tasks of lm_eval, questions."""

from typing import Any, NamedTuple

from absl import flags

from launch.command import cli, streams
from model.errors import UserError
from train.files.paths import local_path

flags.disclaim_key_flags()  # the command that calls `define` is to list these flags as its own


class OtherFlags(NamedTuple):
    """The flags of probes, of lm_eval and of questions."""

    probes: flags.FlagHolder[Any]
    sequences: flags.FlagHolder[Any]
    probe_seed: flags.FlagHolder[Any]
    harness: flags.FlagHolder[Any]
    harness_folder: flags.FlagHolder[Any]
    harness_limit: flags.FlagHolder[Any]
    num_fewshot: flags.FlagHolder[Any]
    questions: flags.FlagHolder[Any]
    answers: flags.FlagHolder[Any]
    answer_tokens: flags.FlagHolder[Any]

    def asked(self) -> bool:
        """Whether one of these evaluations is asked for. Raises UserError for flags without effect."""
        asked = {"probes": self.probes.value is not None, "harness": bool(self.harness.value)}
        asked["questions"] = self.questions.value is not None
        if sum(asked.values()) > 1:
            named = " and ".join(f"--{name}" for name, given in asked.items() if given)
            raise UserError(f"{named} are {sum(asked.values())} evaluations; give one at a time")
        needs = {
            "probes": (asked["probes"], (self.sequences, self.probe_seed)),
            "harness": (asked["harness"], (self.harness_folder, self.harness_limit, self.num_fewshot)),
            "questions": (asked["questions"], (self.answers, self.answer_tokens)),
        }
        for name, (given, others) in needs.items():
            for flag in others:
                if flag.present and not given:
                    raise UserError(f"--{flag.name} has no effect without --{name}; leave it out")
        return any(given for given, _ in needs.values())

    def run(self, run: str, checkpoint: str, mesh: Any, html: str | None, as_json: bool) -> int:
        """Measures a run and prints the results; the arguments are the other flags of `launch.evaluate`."""
        if self.harness.value:
            from train.evaluation.harness.adapter import adapter_class

            adapter_class()  # a missing package is told before the model is read
        from train.conversion.loading import load_model

        loaded = load_model(run, checkpoint, mesh=mesh)
        if self.questions.value is not None:
            return self._questions(loaded, html, as_json)
        return self._tasks(loaded, html, as_json) if self.harness.value else self._probes(loaded, html, as_json)

    def _probes(self, loaded: Any, html: str | None, as_json: bool) -> int:
        from train.evaluation.probing.page import write_page
        from train.evaluation.probing.results import probe_run
        from train.evaluation.probing.table import table

        count, seed = self.sequences.value, self.probe_seed.value
        results = probe_run(loaded, self.probes.value, num_sequences=count, seed=seed)
        if html is not None:
            write_page(results, local_path(html, "a page"))
        print(streams.as_json(results.as_json()) if as_json else table(results))
        return 0

    def _questions(self, loaded: Any, html: str | None, as_json: bool) -> int:
        from train.alignment.answering import answers_of_run, table, write_answers

        if html is not None:
            raise UserError("--html has no page of --questions; take --json, or --answers=FILE.jsonl for the texts")
        questions, answers = answers_of_run(loaded, self.questions.value, max_tokens=self.answer_tokens.value)
        if self.answers.value is not None:
            write_answers(questions, answers, local_path(self.answers.value, "a file of answers"))
        print(streams.as_json(answers.numbers()) if as_json else table(answers))
        return 0

    def _tasks(self, loaded: Any, html: str | None, as_json: bool) -> int:
        from train.evaluation.harness.adapter import evaluate_tasks, table

        if html is not None:
            raise UserError("--html has no page of --harness; take --json")
        named = self.harness_folder.value
        folder = None if named is None else local_path(named, "a folder of task files")
        tasks = [task.strip() for task in self.harness.value if task.strip()]
        result = evaluate_tasks(loaded, tasks, folder, self.harness_limit.value, self.num_fewshot.value)
        print(streams.as_json(result) if as_json else table(result))
        return 0


def define() -> OtherFlags:
    """Defines the flags, for the command that calls this."""
    return OtherFlags(
        flags.DEFINE_string(
            "probes",
            None,
            "Probes instead of text: induction, needle, recall, letters, markov or all, or options such as "
            "'Needle(lengths=(64, 512))'. With --html a page with their pictures.",
        ),
        flags.DEFINE_integer("sequences", 256, "With --probes: the sequences of each.", lower_bound=1),
        flags.DEFINE_integer("probe_seed", 0, "With --probes: the seed of the sequences.", lower_bound=0),
        flags.DEFINE_list(
            "harness", [], "Tasks of lm_eval instead of text, separated by commas: tasks, groups, or .yaml files."
        ),
        cli.define_path("harness_folder", None, "With --harness: a folder with further task files."),
        flags.DEFINE_integer("harness_limit", None, "With --harness: documents of each task.", lower_bound=1),
        flags.DEFINE_integer("num_fewshot", None, "With --harness: examples before each document.", lower_bound=0),
        cli.define_path(
            "questions",
            None,
            "Questions instead of text: a .jsonl file with a prompt and its answer in each row.",
        ),
        cli.define_path("answers", None, "With --questions: writes the model's answers and their judgements here."),
        flags.DEFINE_integer("answer_tokens", 64, "With --questions: the longest answer.", lower_bound=1),
    )
