"""The commands: python -m launch.train, .quickstart, .evaluate, .generate, .tokenize, .data, .report, .convert."""

import sys

if sys.argv[:1] == ["-m"]:  # Python is about to find the command, and has imported nothing else of ours yet
    from launch import shadows

    shadows.refuse()
