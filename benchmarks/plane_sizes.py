"""CPU time per network pixel for planes of several sizes, with freed memory kept or returned.

python benchmarks/plane_sizes.py
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading

SIZES = ((256, 256), (80, 496), (496, 496), (992, 992))
REPEATS = 4


def cpu_seconds() -> tuple[float, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


def measure() -> None:
    import torch

    from orthoflow.kernels.allocator import keep_freed_memory
    from orthoflow.models.nets import UNet

    torch.set_num_threads(1)
    if "--keep" in sys.argv:
        keep_freed_memory()
    net = UNet(base=16, depth=3, norm="none", outputs=3, channels=1, ndim=2).eval()
    net = net.to(memory_format=torch.channels_last)
    for height, width in SIZES:
        plane = torch.randn(1, 1, height, width).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            net(plane)
            before = cpu_seconds()
            for _ in range(REPEATS):
                net(plane)
            after = cpu_seconds()
        user, system = (
            (b - a) / REPEATS / (height * width) * 1e9 for a, b in zip(before, after, strict=True)
        )
        print(f"| {height} x {width} | {user + system:.0f} | {user:.0f} | {system:.0f} |")


if __name__ == "__main__":
    if "--child" in sys.argv:
        # Dask's tasks run in threads, whose memory glibc treats differently.
        worker = threading.Thread(target=measure)
        worker.start()
        worker.join()
    else:
        for title, flag in (("as it comes", "--child"), ("freed memory kept", "--keep")):
            print(f"| {title} | ns per pixel | user | system |")
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = [sys.executable, __file__, "--child", flag]
            subprocess.run(command, env=environment, check=True)
