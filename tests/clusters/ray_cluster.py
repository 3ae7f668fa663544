"""A text tokenized on two nodes of a real Ray cluster: a node is lost, the command is killed, and it continues.

    pip install -e '.[ray]'
    python -m tests.clusters.ray_cluster

Starts two nodes of Ray on this machine (1 core each), tokenizes texts with launch.tokenize --engine=ray, kills all
processes of a node while it works, kills the command, gives it again, and compares every file with those that processes
of this machine write. Takes about two minutes. Not part of `make test`.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORT = 26379
BEGAN = time.monotonic()
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def main():
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        write_texts(work / "texts")
        try:
            check(work)
        finally:
            ray("stop", "--force")


def check(work):
    here = tokenize(work, "here", "--workers=2")
    if here.wait():
        raise SystemExit("tokenizing on this machine failed")
    say("tokenized by processes of this machine")
    ray("start", "--head", f"--port={PORT}", "--num-cpus=1", "--include-dashboard=false")
    second = start_second_node()
    say("two nodes of Ray, a core each")
    command = tokenize(work, "there", "--engine=ray")
    wait_for(lambda: parts(work), command, "the first finished shard")
    os.killpg(second.pid, signal.SIGKILL)
    lost = parts(work)
    say(f"a node killed after {lost} shards")
    wait_for(lambda: parts(work) > lost + 1, command, "more shards on the other node")
    command.send_signal(signal.SIGKILL)
    command.wait()
    say(f"the command killed after {parts(work)} shards")
    second = start_second_node()
    if tokenize(work, "there", "--engine=ray").wait():
        raise SystemExit("the command did not continue")
    os.killpg(second.pid, signal.SIGKILL)
    files = [sorted(path for path in (work / name).iterdir() if path.name[0] != ".") for name in ("here", "there")]
    names = [[path.name for path in side] for side in files]
    assert names[0] == names[1], names
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))
    say(f"all {len(names[0])} files have the same bytes")


def write_texts(folder):
    """24 texts of 4 MiB, the least size of a shard."""
    folder.mkdir()
    for n in range(24):
        lines = (f"line {k} of text {n}: {k * 7919 % 10007} {k * 104729 % 65521}\n" for k in range(120_000))
        (folder / f"{n:02}.txt").write_text("".join(lines), encoding="utf-8")


def tokenize(work, name, *flags):
    command = [sys.executable, "-m", "launch.tokenize", f"--input={work}/texts/*.txt", f"--output={work}/{name}"]
    command += ["--tokenizer=bytes", "--validation=HeldOutDocuments(fraction=0.1, similarity=None)", *flags]
    return subprocess.Popen(command, cwd=work, env=ENVIRONMENT, stdout=subprocess.DEVNULL)


def parts(work):
    """The number of finished shards of the dataset that the cluster makes."""
    return len(list((work / "there").glob("part-*.json")))


def start_second_node():
    command = ["start", f"--address=127.0.0.1:{PORT}", "--num-cpus=1", "--block"]
    process = subprocess.Popen(
        [*ray_command(), *command], env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    time.sleep(8)
    return process


def ray_command():
    return [str(pathlib.Path(sys.executable).parent / "ray")]


def ray(*arguments):
    subprocess.run([*ray_command(), *arguments], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def wait_for(happened, command, words):
    until = time.monotonic() + 300
    while not happened():
        if command.poll() is not None or time.monotonic() > until:
            raise SystemExit(f"{words}: did not happen; the command's status is {command.poll()}")
        time.sleep(0.05)


def say(words):
    print(f"{time.monotonic() - BEGAN:5.0f} s  {words}", flush=True)


if __name__ == "__main__":
    main()
