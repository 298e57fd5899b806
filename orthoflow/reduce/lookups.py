"""What the tasks of a block look up: objects of its fragments, labels of its triples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from orthoflow.reduce.tables import Rows


@dataclass(frozen=True, slots=True)
class Lookups:
    """Object of each fragment of a block, from fragment 0 (none) on, by orientation.

    Numbers above `named` (1,) say foreground, and no more.
    """

    xy: npt.NDArray[np.integer[Any]]
    xz: npt.NDArray[np.integer[Any]]
    yz: npt.NDArray[np.integer[Any]]
    named: npt.NDArray[np.integer[Any]]

    def by_name(self) -> dict[str, npt.NDArray[np.integer[Any]]]:
        """The same in a dict."""
        return {"xy": self.xy, "xz": self.xz, "yz": self.yz}


@dataclass(frozen=True, slots=True)
class Ids(Rows):
    """Label of each triple, end or piece of a block, in their order; of pieces from 0 (none) on."""

    label: npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True)
class Fills(Rows):
    """What each piece of background of a block is filled with, 0 = nothing; from 0 (none) on."""

    label: npt.NDArray[np.integer[Any]]
