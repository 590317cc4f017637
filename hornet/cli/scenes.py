"""Scenes with exact masks, composed of cut-outs on photographs: something to segment without a download.

python launch/scenes.py data/scenes                                   digits on photographs, of scikit-learn's
python launch/scenes.py data/scenes --objects FOLDER --backgrounds FOLDER   your own images with alpha, CLASS/NAME.png
"""

import argparse
from pathlib import Path

from hornet.cli import print_to_pipe
from hornet.cli.command_line import exit_on_bad_input


def main() -> None:
    """Read the command line and write the folder, which `launch/shards.py build` takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="folder to make: images/, annotations/ (masks, and objects as COCO has them), classes.txt",
    )
    parser.add_argument(
        "--objects",
        type=Path,
        metavar="FOLDER",
        help="images with alpha, [training|validation/]CLASS/NAME.png (digits)",
    )
    parser.add_argument("--backgrounds", type=Path, metavar="FOLDER", help="photographs (the two of scikit-learn)")
    parser.add_argument("--num-training", type=int, default=400, metavar="N", help="scenes to train on (400)")
    parser.add_argument("--num-validation", type=int, default=100, metavar="N", help="scenes to evaluate on (100)")
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="edge of a scene (128)")
    parser.add_argument("--max-objects", type=int, default=3, metavar="N", help="cut-outs of a scene at most (3)")
    parser.add_argument(
        "--num-digits", type=int, default=10, metavar="N", help="digits that are classes, from 0 on (10)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (0)")
    options = parser.parse_args()
    exit_on_bad_input(lambda: _write(options))


def _write(options: argparse.Namespace) -> None:
    from hornet.shards.build.scenes import SceneOptions, write_scenes

    chosen = SceneOptions(
        num_training=options.num_training,
        num_validation=options.num_validation,
        size=options.size,
        max_objects=options.max_objects,
        num_digits=options.num_digits,
        seed=options.seed,
    )
    print_to_pipe(write_scenes(options.output, chosen, objects=options.objects, backgrounds=options.backgrounds))


if __name__ == "__main__":
    main()
