"""Make, index and describe sets of shards: webdataset tars, an index, a manifest.

Some uses:
  python launch/shards.py build photos/train data/photos --split train
  python launch/shards.py build photos/val data/photos --split validation
  python launch/shards.py index imagenet-22k-wds --classes imagenet-22k
  python launch/shards.py info data/photos --page photos.html
  python launch/shards.py verify data/photos --report findings.jsonl
  python launch/shards.py subset data/photos data/photos-10 --fraction 0.1
  python launch/shards.py duplicates data/photos data/photos --output exclude.jsonl
  python launch/shards.py bench data/photos --rate 1500 --gpus 8
"""

import argparse
import errno

from hornet.cli.command_line import Parser, exit_on_bad_input
from hornet.cli.shard_commands.bench import add_bench
from hornet.cli.shard_commands.build import add_build
from hornet.cli.shard_commands.sets import add_index, add_info, add_verify
from hornet.cli.shard_commands.views import add_duplicates, add_labels, add_subset
from hornet.errors import UserError


def main() -> None:
    """Read the command line and do what it asks for."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add in (add_build, add_index, add_verify, add_info, add_subset, add_duplicates, add_bench, add_labels):
        add(commands)
    options = parser.parse_args()
    exit_on_bad_input(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Call the command; a full disk is a UserError."""
    try:
        options.run(options)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = error.filename or vars(options).get("output") or "the disk"
        raise UserError(f"{place}: {error.strerror}; make room, then start the command again") from error


if __name__ == "__main__":
    main()
