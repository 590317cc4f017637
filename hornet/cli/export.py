"""Export weights for the world outside: timm's hub layout, the original .pth, ONNX, torch.export, AOTInductor."""

import argparse
from pathlib import Path
from typing import Any

from hornet.cli import print_to_pipe
from hornet.cli.command_line import exit_on_bad_input
from hornet.cli.evaluate_dense import require_classifier
from hornet.cli.sources import require_source
from hornet.config import build_config, describe_fields
from hornet.model.sizes import NATIVE_SIZE, VARIANTS
from hornet.overrides import apply_overrides
from hornet.runs.begun import find_run, read_run_config
from hornet.stages.config import ExportConfig
from hornet.stages.preprocessing import take_from_run

EPILOG = f"""examples:
  python launch/export.py runs/demo/finetune exports/demo weights=ema
  python launch/export.py hornet_tiny_gf.pth exports/tiny model=hornet_tiny_gf label_space=imagenet-1k \\
      formats=[timm,onnx]

For a run or a checkpoint in one, size, crop and filter are by default those it evaluates with. The folder is made
whole or not at all; ONNX files and exported programs are run and compared with the network before they count.

keys:
{describe_fields(ExportConfig)}"""


def main() -> None:
    """Read the command line, then export."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="run directory, checkpoint folder or weight file")
    parser.add_argument("output", type=Path, help="folder to make")
    parser.add_argument("--measure", action="store_true", help="time what was exported, beside PyTorch, on this CPU")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="set a key; dots nest")
    options = parser.parse_intermixed_args()

    def run() -> None:
        config = read_config(options.source, options.output, overrides=options.overrides)
        export(config, is_measured=options.measure)

    exit_on_bad_input(run)


def read_config(source: Path, output: Path, *, overrides: list[str]) -> ExportConfig:
    """Take the run's own preprocessing, then the overrides."""
    require_source(source)
    require_classifier(source)
    values: dict[str, Any] = {"source": source, "output": output}
    if (run := find_run(source)) is not None:
        evaluation = take_from_run(read_run_config(run))["evaluation"]
        names = ("image_size", "crop_fraction", "interpolation")
        values |= {name: evaluation[name] for name in names if name in evaluation}
    problems = apply_overrides(values, overrides)
    if "image_size" not in values and values.get("model") in VARIANTS:
        values["image_size"] = VARIANTS[values["model"]].get("img_size", NATIVE_SIZE)
    return build_config(ExportConfig, values, source=str(source), problems=problems)


def export(config: ExportConfig, *, is_measured: bool = False) -> None:
    """Export, and say what is where; time it and push it if asked for."""
    from hornet.stages.export import export_weights, measure_exported  # torch takes seconds; bad input need not wait

    api = None
    if config.push_to is not None:
        from huggingface_hub import HfApi

        from hornet.stages.hub import push, require_login

        api = HfApi()
        require_login(api)
    written = export_weights(config)
    print_to_pipe(f"{config.output}:")
    for name, what in written.items():
        print_to_pipe(f"  {name:24} {(config.output / name).stat().st_size / 1e6:8.1f} MB  {what}")
    if is_measured:
        from hornet.stages.latency import format_latencies

        print_to_pipe(format_latencies(measure_exported(config)))
    if api is not None and config.push_to is not None:
        print_to_pipe(f"pushed: {push(config.output, config.push_to, public=config.push_public, api=api)}")


if __name__ == "__main__":
    main()
