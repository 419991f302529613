"""Time and peak memory of exporting a model under the hypothetical plan c (Linux).

python benchmarks/export_memory.py [MODEL] [--dtype bfloat16]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from headspec import export_model, load_plain
from headspec.measure.hypothetical import hypothetical_plan


def main() -> None:
    """Load, export into a temporary folder, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="random:pythia-2.8b")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    model = load_plain(options.model, device="cpu", dtype=options.dtype)
    plan = hypothetical_plan(model, "c")
    Path("/proc/self/clear_refs").write_text("5")  # starts a new high-water mark
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, plan, Path(folder) / "out")
        seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9
    print(
        f"{options.model} in {options.dtype}: {seconds:.0f} s, peak {peak:.1f} GB, {peak - before:.1f} above the model"
    )


if __name__ == "__main__":
    main()
