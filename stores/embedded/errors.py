"""The one error of the embedded servers."""


class EmbeddedServerError(RuntimeError):
    """Raised when an embedded server cannot be started, stopped, found or removed; the message says what would help."""
