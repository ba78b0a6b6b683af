"""The one error that is meant for the person at the keyboard."""


class UserError(Exception):
    """Something only the user can mend: one sentence saying what is wrong and what to do.

    Commands print it without a traceback and exit with code 1.
    """


class NotFinite(UserError):
    """A loss, a gradient or another number of training became NaN or infinite."""


class AnotherRun(UserError):
    """The run folder is another run's, and stays as it is."""
