"""The one exception for mistakes that a user can correct."""


class UserError(ValueError):
    """A mistake in the user's input: a config, a flag, a file.

    The message gives the value, the expected value and a way to correct it. Commands print the message without a
    traceback and exit with status 2; any other exception is a bug in Cairn and keeps its traceback.
    """
