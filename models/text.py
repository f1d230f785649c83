"""What counts as text (what PostgreSQL, JSON and a process's arguments can all hold), and durations in words."""

from datetime import timedelta


def is_plain_text(value: object) -> bool:
    """Whether `value` is a string without NUL and without half a surrogate pair."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def span(duration: timedelta | float) -> str:
    """A duration in words that fit a table: `4.2 s`, `5 min 12 s`, `3 h 4 min`."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"
