#!/usr/bin/env python3
"""Writes the wheel: the library, the command, and a module that finds both.

usage: wheel.py VERSION LIBRARY COMMAND README LICENSE FOLDER

The same files give the same bytes: every entry has the date of SOURCE_DATE_EPOCH, or 1980. The format is that of
"Binary distribution format" in the Python Packaging User Guide.
"""

import base64
import hashlib
import os
import pathlib
import stat
import sys
import time
import zipfile

TAG = "py3-none-manylinux_2_28_x86_64"
HERE = pathlib.Path(__file__).resolve().parent


def date():
    """Of every entry; a ZIP cannot say what was before 1980."""
    seconds = max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800)
    return time.gmtime(seconds)[:6]


def entry(path, mode):
    info = zipfile.ZipInfo(path, date())
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | mode) << 16
    return info


def record_line(path, data):
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def main():
    if len(sys.argv) != 7:
        sys.exit(__doc__)
    version, library, command, readme, licence, folder = sys.argv[1:]
    read = lambda path: pathlib.Path(path).read_bytes()
    info = f"zen5turbo-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: zen5turbo\nVersion: {version}\n"
        "Summary: Makes an unmodified llama.cpp faster on AMD Zen 5 CPUs: a preload library and its command\n"
        "License: MIT\nRequires-Python: >=3.8\nClassifier: Operating System :: POSIX :: Linux\n"
        "Description-Content-Type: text/markdown\n\n"
    ).encode() + read(readme)
    files = [
        ("zen5turbo/__init__.py", read(HERE / "__init__.py"), 0o644),
        ("zen5turbo/__main__.py", b'"""python -m zen5turbo"""\n\nfrom . import main\n\nmain()\n', 0o644),
        ("zen5turbo/bin/zen5turbo", read(command), 0o755),
        ("zen5turbo/lib/libzen5turbo.so", read(library), 0o755),
        (f"{info}/METADATA", metadata, 0o644),
        (f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: zen5turbo\nRoot-Is-Purelib: false\nTag: {TAG}\n".encode(), 0o644),
        (f"{info}/entry_points.txt", b"[console_scripts]\nzen5turbo = zen5turbo:main\n", 0o644),
        (f"{info}/licenses/LICENSE", read(licence), 0o644),
    ]
    record = "".join(record_line(path, data) for path, data, _ in files) + f"{info}/RECORD,,\n"
    files.append((f"{info}/RECORD", record.encode(), 0o644))
    out = pathlib.Path(folder) / f"zen5turbo-{version}-{TAG}.whl"
    with zipfile.ZipFile(out, "w") as wheel:
        for path, data, mode in files:
            wheel.writestr(entry(path, mode), data, compresslevel=9)
    print(out)


main()
