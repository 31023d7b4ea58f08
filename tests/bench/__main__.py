"""`make bench`: every measurement once, as a table and as build/bench.json."""

import json
import tempfile
from pathlib import Path

from infra import broker
from infra.process import say
from tests.bench import bench_cache, bench_log, bench_rewards, bench_round, bench_sandbox

Row = dict[str, object]


def main() -> None:
    rows: list[Row] = []
    say("the log")
    with tempfile.TemporaryDirectory() as home, broker.running(Path(home), say=say) as bootstrap:
        rows += bench_log.measure(bootstrap)
        say("the cache")
        rows += bench_cache.measure(bootstrap)
        say("rewards")
        rows += bench_rewards.measure(bootstrap)
    say("the sandbox")
    rows += bench_sandbox.measure()
    say("a round")
    rows += bench_round.measure()
    file = Path("build/bench.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n")
    for row in rows:
        print(line(row))
    print(f"written to {file}")


def line(row: Row) -> str:
    against = f"{row['ratio']:.2f} x {row['against']}" if row.get("ratio") is not None else ""
    return f"{row['name']:<48} {row['value']:>12,.4g} {row['unit']:<12} {against}"


if __name__ == "__main__":
    main()
