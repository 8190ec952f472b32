#!/usr/bin/env python3
"""Write a model with random weights: speed does not depend on their values.

    scripts/make_model.py OUTPUT --like NAME[:MIX] [--layers N] [--bin DIR]     a slice of a well-known model, by `zen5turbo slice`
    scripts/make_model.py --like list                                           the models that slices are made of
    scripts/make_model.py OUTPUT --vocab-from FILE ...                          any sizes, by synthetic_model.py (--help: its options)

A slice has types as llama-quantize chooses them for the model, and a tokenizer of bytes. A synthetic model is in half precision and
has the tokenizer of another file.
"""

import os
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
    words = [part for word in sys.argv[1:] for part in (word.split("=", 1) if word.startswith("--like=") else [word])]
    if "--like" not in words:
        if not words or words[0] in ("-h", "--help"):
            print(__doc__)
        os.execv(sys.executable, [sys.executable, str(HERE / "synthetic_model.py"), *(words or ["--help"])])
    at = words.index("--like")
    name, rest = words[at + 1 : at + 2], words[:at] + words[at + 2 :]
    if not name:
        sys.exit("error: found --like without a name; expected NAME, NAME:MIX or list")
    # A file to write stands in front, if there is one: every option of `zen5turbo slice` has a value.
    output = ["--out", rest.pop(0)] if rest and not rest[0].startswith("-") else []
    built = HERE.parent / "target/release/zen5turbo"
    command = str(built) if built.exists() else shutil.which("zen5turbo")
    if command is None:
        sys.exit(f"error: found no {built}, and no zen5turbo in PATH; build it: cargo build --release -p zen5turbo-cli")
    os.execv(command, [command, "slice", *name, *output, *rest])


if __name__ == "__main__":
    main()
