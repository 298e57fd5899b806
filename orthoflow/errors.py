"""The errors a caller may want to catch; each is also a builtin one."""


class BadInput(ValueError):  # noqa: N818 - read as a sentence: "raise BadInput"
    """An argument, a file or a combination that cannot work; nothing was created (exit code 2)."""


class BlockFailed(RuntimeError):  # noqa: N818
    """A block could not be computed; the message names the block (exit code 3)."""


class BlockImpossible(BlockFailed):
    """A block that will fail again whenever it is tried: missing input, NaN logits."""


class StoreRefused(OSError):  # noqa: N818
    """A store said no: credentials, space, permissions (exit code 4)."""


class RunInterrupted(RuntimeError):  # noqa: N818
    """A run was stopped or lost its scheduler; what is done is kept (exit code 5)."""
