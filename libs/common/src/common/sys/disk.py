"""Numbers of errors, errno(3), that tell of a disk and not of the program."""

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)
FAILING = (errno.EIO, errno.EROFS, errno.ESTALE, errno.EUCLEAN)
"""It is broken, or its filesystem has stopped because of what it found."""
