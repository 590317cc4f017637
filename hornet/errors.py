"""The error that is the user's to mend."""


class UserError(ValueError):
    """Bad input, a bad file, a full disk: entry scripts print its text without a traceback and exit 2.

    Anything else is a bug of ours (or of a library's) and keeps its traceback.
    """
