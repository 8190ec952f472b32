"""zen5turbo: a preload library that makes an unmodified llama.cpp faster on AMD Zen 5 CPUs.

The loader reads LD_PRELOAD before Python starts, so the library cannot be loaded by an import:

    python -m zen5turbo run -- python program.py
    LD_PRELOAD=$(python -c 'import zen5turbo; print(zen5turbo.path())') python program.py

`zen5turbo setup python` prints lines with which a program starts itself anew under the library.
"""

import os
import sys

__all__ = ["command", "main", "path"]

_FOLDER = os.path.dirname(os.path.abspath(__file__))


def path():
    """The library, for LD_PRELOAD."""
    return os.path.join(_FOLDER, "lib", "libzen5turbo.so")


def command():
    """The command `zen5turbo`."""
    return os.path.join(_FOLDER, "bin", "zen5turbo")


def main():
    """Becomes the command, with the arguments of this process."""
    program = command()
    try:
        os.execv(program, ["zen5turbo", *sys.argv[1:]])
    except OSError as error:
        sys.exit(f"zen5turbo: {program} cannot be started: {error.strerror}; install the package again")
