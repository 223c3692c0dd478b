"""How a stage fails: refused for good, or worth another try."""

from quantop.contract import ExitCode


class StageError(Exception):
    """A failure that is told to the operator: ``reason`` is one CamelCase word, ``message`` one
    sentence that names the field, what was found and what to do. Never a secret."""

    exit_code = 1

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class RefusedError(StageError):
    """Permanent: the same inputs would fail again."""

    exit_code = int(ExitCode.REFUSED)


class TryAgainError(StageError):
    """Passing: the network, a busy server, a deletion under way."""
