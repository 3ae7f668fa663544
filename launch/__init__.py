"""The commands: python -m launch.train, .quickstart, .evaluate, .generate, .tokenize, .data, .report, .convert."""

import sys

if sys.argv[:1] == ["-m"]:  # Python is about to find the command, and has imported nothing else of ours yet
    from launch.command import import_shadowing

    import_shadowing.exit_if_shadowed()

    import signal

    # Ctrl-C while the command's modules are imported has nothing to put away, and no traceback to show.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
