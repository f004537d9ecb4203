"""What goes wrong when a tree is sealed. Not of the project's tree of errors: see the package."""


class SealError(Exception):
    """A rule is malformed, names nothing, or a library that is needed is not there."""
