"""Imported first by the scripts beside it: puts this checkout on the path, in place of this folder.

Run as a script, launch/pretrain.py has launch/ first on its path, where `import pretrain` would find that very file.
This way a checkout also runs its own code, whichever one is installed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
