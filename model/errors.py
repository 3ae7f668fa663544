"""The one exception for mistakes that a user can mend."""


class UserError(ValueError):
    """A mistake in what the user gave: a config, a flag, a file.

    The message says what was got, what was expected and how to mend it. Commands print it without a traceback and
    exit with status 2; any other exception is a bug in Cairn and keeps its traceback.
    """
