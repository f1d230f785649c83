"""What counts as text: what PostgreSQL, JSON and a process's arguments can all hold."""


def is_plain_text(value: object) -> bool:
    """Whether `value` is a string without NUL and without half a surrogate pair."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
