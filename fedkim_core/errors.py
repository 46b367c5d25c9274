"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in input, configuration or surroundings.

    The message is what a person reads: it names the file or key, the value, and the remedy.
    Commands print it without a stack trace and exit with code 2.
    """
