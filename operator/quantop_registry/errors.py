"""What a client is told: https://github.com/opencontainers/distribution-spec, Error Codes."""


class RegistryError(Exception):
    """A refusal: the HTTP status, the code of the protocol, and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def name_unknown(message: str) -> RegistryError:
    """There is no such model, or none for this registry."""
    return RegistryError(404, "NAME_UNKNOWN", message)


def manifest_unknown(message: str) -> RegistryError:
    """The model has no such tag."""
    return RegistryError(404, "MANIFEST_UNKNOWN", message)


def blob_unknown(message: str) -> RegistryError:
    """The model is not made of this blob."""
    return RegistryError(404, "BLOB_UNKNOWN", message)


def denied(message: str) -> RegistryError:
    """The model is there and is not to be pulled. Ollama's client shows the sentence, as of no
    404."""
    return RegistryError(403, "DENIED", message)
