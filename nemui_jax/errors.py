"""Errors that a person reads: what went wrong, in one line, and what to do about it.

UserError        wrong usage or unusable input, which the user can mend: exit code 2
Failed           what went wrong while running: exit code 1
MissingExtra     an optional dependency that is not installed: exit code 2
"""


class UserError(ValueError):
    """Something that the user can mend; the message says what is wrong and what to do."""


class UsageError(UserError):
    """Arguments that do not go together, or are out of range."""


class MidiError(UserError):
    """A file that holds no usable song. The message does not name the file: the caller does."""


class RecipeError(UserError):
    """A recipe that cannot be followed; the message says what is wrong and what is allowed."""


class RunError(UserError):
    """A run that cannot be used as asked; the message says why and what to do."""


class FetchError(UserError):
    """A download that cannot be completed, or an archive that cannot be used."""


class SoundfontError(UserError):
    """A soundfont that cannot be played."""


class StudioError(UserError):
    """A studio that cannot be started."""


class Failed(RuntimeError):
    """What went wrong while running."""


class SaveError(Failed):
    """A checkpoint that could not be written; older ones are as they were."""


class MissingExtra(ImportError):
    """An optional dependency that is not installed; the message says which extra brings it."""
