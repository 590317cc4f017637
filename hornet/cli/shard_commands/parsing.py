"""The type of the object to which a command adds its parser."""

import argparse
from typing import TypeAlias

from hornet.cli.command_line import Parser

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
