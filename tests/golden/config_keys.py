"""Every setting of every release, in config_keys.json: what tests/unit/test_formats.py holds today's against.

`python -m tests.golden.config_keys` writes today's under today's version; entries of earlier releases stay as they are.
"""

import dataclasses
import json
from pathlib import Path

from dense.config import DenseConfig, InstancesConfig
from finetune.config import FinetuneConfig
from hornet import __version__
from hornet.config import list_settings
from pretrain.config import PretrainConfig

RELEASES = Path(__file__).with_suffix(".json")
STAGES = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "dense": DenseConfig,
    "dense, instances": InstancesConfig,
}


def describe_keys(config_class):
    """Return a config's settings, each with its default, where it has one, and whether a resumed run may change it."""
    return {
        key: {"resumable": setting.is_resumable}
        | ({} if setting.default is dataclasses.MISSING else {"default": setting.default})
        for key, setting in list_settings(config_class).items()
    }


def write():
    """Replace today's entry; a line a setting, so that a diff shows what came and went."""
    releases = json.loads(RELEASES.read_text()) if RELEASES.exists() else {}
    releases[__version__] = {stage: describe_keys(config) for stage, config in STAGES.items()}
    blocks = []
    for release, stages in releases.items():
        parts = []
        for stage, keys in stages.items():
            lines = [f'   "{key}": {json.dumps(setting)}' for key, setting in keys.items()]
            parts.append(f'  "{stage}": {{\n' + ",\n".join(lines) + "\n  }")
        blocks.append(f' "{release}": {{\n' + ",\n".join(parts) + "\n }")
    RELEASES.write_text("{\n" + ",\n".join(blocks) + "\n}\n")


if __name__ == "__main__":
    write()
