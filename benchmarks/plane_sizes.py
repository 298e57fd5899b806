"""CPU time per network pixel for planes of several sizes, with and without large pages.

python benchmarks/plane_sizes.py
"""

from __future__ import annotations

import os
import subprocess
import sys

SIZES = ((256, 256), (80, 496), (496, 496), (992, 992))


def measure() -> None:
    import time

    import torch

    from orthoflow.models.nets import UNet

    torch.set_num_threads(1)
    net = UNet(base=16, depth=3, norm="none", outputs=3, channels=1, ndim=2).eval()
    net = net.to(memory_format=torch.channels_last)
    for height, width in SIZES:
        plane = torch.randn(1, 1, height, width).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            net(plane)
            began = time.process_time()
            for _ in range(3):
                net(plane)
        per_pixel = (time.process_time() - began) / 3 / (height * width) * 1e9
        print(f"{height:>5} x {width:<5}{per_pixel:8.0f} ns per pixel")


if __name__ == "__main__":
    if "--child" in sys.argv:
        measure()
    else:
        for value in ("0", "1"):
            print(f"THP_MEM_ALLOC_ENABLE={value}")
            environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": value, "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, __file__, "--child"], env=environment, check=True)
