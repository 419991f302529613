"""Do two runs of the same benchmark agree? Compares the speed-ups in two folders of `headspec bench`.

    headspec bench MODEL … --out first; headspec bench MODEL … --out second
    python benchmarks/repeatability.py first second

Target: every ratio differs by less than 10 %, and lies inside the other run's 95 % interval.
"""

import argparse
from pathlib import Path

import pandas

from headspec.measure.report import BenchmarkReport

KEYS = ["part", "batch", "context", "system", "against", "measure"]


def main() -> None:
    """Print how far the ratios of both runs are apart, the worst in full."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs=2)
    both = ratios(*parser.parse_args().folders)
    for measure, rows in both.groupby("measure"):
        apart = (rows.value_x / rows.value_y - 1).abs()
        inside = rows.value_x.between(rows.low_y, rows.high_y) & rows.value_y.between(rows.low_x, rows.high_x)
        print(f"{measure}: {len(rows)} ratios, apart by {apart.median():.1%} in the median, {apart.max():.1%} at most; "
              f"{(apart < 0.1).mean():.0%} below 10 %, {inside.mean():.0%} inside each other's interval")  # fmt: skip
        for number in apart.sort_values(ascending=False).index[:3]:
            row = rows.loc[number]
            print(f"  {row.part} batch {row.batch:.0f} context {row.context:.0f}, {row.system} over {row.against}: "
                  f"{row.value_x:.3f} [{row.low_x:.3f}, {row.high_x:.3f}] and "
                  f"{row.value_y:.3f} [{row.low_y:.3f}, {row.high_y:.3f}]")  # fmt: skip


def ratios(first: Path, second: Path) -> pandas.DataFrame:
    """The speed-ups of two runs side by side."""
    frames = [BenchmarkReport.load(folder).to_frame() for folder in (first, second)]
    chosen = [frame[frame.measure.str.startswith("speedup")][[*KEYS, "value", "low", "high"]] for frame in frames]
    return chosen[0].merge(chosen[1], on=KEYS)


if __name__ == "__main__":
    main()
