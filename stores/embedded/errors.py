"""The one error of the embedded servers."""

from reprieve.models.errors import ReprieveError


class EmbeddedServerError(ReprieveError):
    """Raised when an embedded server cannot be started, stopped, found or removed; the message says what would help."""
