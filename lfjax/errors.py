"""The one exception whose message is written for the person at the terminal."""


class UserError(ValueError):
    """Bad input: says what was wrong, where, what was expected and what to do.

    The doors print the message and exit with status 2; no traceback of the library is shown.
    """


def nearest(name: str, known) -> str:
    """`did you mean …` for a misspelt name, followed by all known ones."""
    import difflib

    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
