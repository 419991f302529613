"""What headspec raises when it is given something it cannot use.

Every message says what came, what was wanted and what to do. The command line prints it without a
traceback and exits with code 2.
"""


class HeadspecError(ValueError):
    """Something given to headspec cannot be used; the base of all its errors."""


class ModelError(HeadspecError):
    """A model cannot be found, loaded or probed."""


class MissingPackageError(HeadspecError):
    """Something optional is not installed; the message names the extra that brings it."""


class TextError(HeadspecError):
    """A text or token sequence cannot be read, or does not fit the model."""


class RecordError(HeadspecError):
    """A saved record is damaged, of another version, or belongs to another model."""
