"""The errors that a user can cause. Each prints as one line that names the file or field and what would be right."""


class R1JaxError(Exception):
    """Something a user asked for cannot be done; commands print it as one line and exit with code 1."""


class UsageError(R1JaxError):
    """The request itself is malformed (an unknown field, a bad value); commands exit with code 2."""


class ImageError(R1JaxError):
    """A file cannot be read or written as an image."""


class WeightMismatch(R1JaxError):
    """A checkpoint does not fit a module.

    Attributes:
      missing: names that the module needs and the checkpoint lacks.
      unexpected: names that the checkpoint has and the module does not.
      misshaped: (name, shape in the module, shape in the checkpoint).
    """

    def __init__(
        self,
        missing: list[str],
        unexpected: list[str],
        misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]],
    ):
        self.missing, self.unexpected, self.misshaped = missing, unexpected, misshaped
        parts = [f"missing {name}" for name in missing]
        parts += [f"unexpected {name}" for name in unexpected]
        parts += [f"{name}: module {ours}, checkpoint {theirs}" for name, ours, theirs in misshaped]
        super().__init__("checkpoint does not fit: " + "; ".join(parts))
