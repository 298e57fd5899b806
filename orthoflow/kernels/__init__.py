"""Arrays in, arrays out: prepare, run the network, finish. torch; no Dask, no stores."""

import os

# Large tensors in large pages. A network allocates its activations anew in every layer; with 4 kB
# pages, zeroing them takes half of the time of a plane of 992 x 992 (docs/decisions/0005). torch
# reads this once, at its first large allocation; a value that the user set stays.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
