"""The one exception that a user may see."""


class UserError(Exception):
    """A mistake in what the user gave (config, paths, arguments): shown as one line, without a traceback.

    The message names the file, the key and the remedy.
    """

    def __init__(self, message: str) -> None:
        # A loader's worker hands an exception over as one of the same type whose message is the whole traceback.
        super().__init__(str(message).rpartition(f"{__name__}.UserError: ")[2].strip())
