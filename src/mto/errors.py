"""The two exceptions that a user may see."""


class _OneLine(Exception):
    """Is shown as one line, without a traceback."""

    def __init__(self, message: str) -> None:
        # A loader's worker hands an exception over as one of the same type whose message is the whole traceback.
        super().__init__(str(message).rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class UserError(_OneLine):
    """A mistake in what the user gave (config, paths, arguments). Another attempt would meet it again.

    The message names the file, the key and the remedy.
    """


class StorageError(_OneLine):
    """The storage failed several times in a row (`mto.storage`). Another attempt may well succeed."""
