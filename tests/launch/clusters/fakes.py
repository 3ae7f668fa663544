"""Programs of a cluster that are not here: each notes its arguments, and ends with the status or the words of a test."""

import json
import os
import subprocess
import sys

PROGRAM = """#!{python} -IS
import json, os, pathlib, sys
name, folder = pathlib.Path(sys.argv[0]).name, pathlib.Path(__file__).parent
with open(folder / "calls.jsonl", "a") as file:
    file.write(json.dumps([name, *sys.argv[1:], *([sys.stdin.read()] if name in {readers!r} else [])]) + "\\n")
answers = folder / (name + ".answers")
listed = json.loads(answers.read_text()) if answers.exists() else []
for position, (words, status, out, err) in enumerate(listed):
    if words in sys.argv:
        answers.write_text(json.dumps(listed[:position] + listed[position + 1 :]))
        print(out, end="")
        print(err, end="", file=sys.stderr)
        sys.exit(status)
"""


class Fakes:
    """A folder of programs that takes the place of the PATH's.

    `answers` are {program: [(argument, status, output, error)]}: a call with this argument has this answer, once; any
    other call ends well and prints nothing.
    """

    def __init__(self, folder, names, answers=None, readers=()):
        self.folder = folder
        for name in names:
            (folder / name).write_text(PROGRAM.format(readers=readers, python=sys.executable))
            (folder / name).chmod(0o755)
            (folder / f"{name}.answers").write_text(json.dumps((answers or {}).get(name, [])))
        self.path = f"{folder}:/usr/bin:/bin"

    def calls(self, name=None):
        """The arguments of the calls so far, after the program's name."""
        file = self.folder / "calls.jsonl"
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [words for words in found if name in (None, words[0])]

    def run(self, script, **environment):
        """Runs a script of bash, and returns its exit status."""
        given = {"PATH": self.path, "HOME": str(self.folder)} | environment
        return subprocess.run(["bash"], input=script, env=given, text=True, cwd=os.getcwd()).returncode
