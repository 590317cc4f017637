"""Print, for the job script, where a config's run directory and shards are: `run_path=...` and `shards=...`, quoted."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from hornet.config import read_settings
from hornet.errors import UserError
from hornet.field_types import Location, convert
from hornet.yaml_text import is_null


def main() -> None:
    """Read the raw config: the trainer checks it, and imports much more to do so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    try:
        values, problems = read_settings(options.config, options.overrides)
        if problems:
            raise UserError("\n".join(problems))
        root = convert(find(values, "run", "root") or "runs", Path, key="run.root")
        run_path = root / find(values, "run", "name", required=True)
        shards = convert(find(values, "data", "shards") or "", Location, key="data.shards")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"run_path={shlex.quote(str(run_path))}")
    print(f"shards={shlex.quote(shards)}")


def find(values: Any, *keys: str, required: bool = False) -> Any:
    """Return a nested value as it is written, None where there is none; raise UserError if it is required."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    if is_null(values) and required:
        raise UserError(f"{'.'.join(keys)} is missing; set it in the config, or on the command line")
    return values


if __name__ == "__main__":
    main()
