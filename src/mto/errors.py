"""The one exception that a user may see."""


class UserError(Exception):
    """A mistake in what the user gave (config, paths, arguments): shown as one line, without a traceback.

    The message names the file, the key and the remedy.
    """
