"""The errors a user can mend."""


class UserError(ValueError):
    """Says in one line what is wrong with the user's input and how to mend it.

    The programs print it on standard error and exit with code 2.
    """
