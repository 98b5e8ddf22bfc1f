"""Fetches the page's libraries from npm: `python -m scripts.vendor_ui` (needs npm; running the page does not).

In: `PACKAGES`. Out: `router/ui/vendor/`: one ES module each, the licences, and a README with name, version, licence and
sha256 of every file. What is changed on the way: bare names of imports become paths, since the page has no import map
(an inline script, which its content security policy forbids), and links to source maps go.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

VENDOR: Final = Path(__file__).resolve().parents[1] / "router/ui/vendor"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a package.

    Attributes:
        package: its name on npm.
        source: the file inside the package.
        export: what a script that is no module leaves behind; empty for an ES module.
    """

    package: str
    source: str
    export: str = ""


# A new version is a decision: change it here, run this, look at the page, commit what was written.
PACKAGES: Final = {
    "preact": "11.2.0",
    "@preact/signals-core": "1.14.5",
    "@preact/signals": "2.11.4",
    "htm": "3.1.1",
    "marked": "18.2.1",
    "dompurify": "3.5.0",
    "diff": "9.0.0",
    "uplot": "1.6.32",
}
FILES: Final = {
    "preact.js": File("preact", "dist/preact.mjs"),
    "hooks.js": File("preact", "hooks/dist/hooks.mjs"),
    "signals-core.js": File("@preact/signals-core", "dist/signals-core.module.js"),
    "signals.js": File("@preact/signals", "dist/signals.module.js"),
    "htm.js": File("htm", "dist/htm.module.js"),
    "marked.js": File("marked", "lib/marked.esm.js"),
    "purify.js": File("dompurify", "dist/purify.min.js", export="globalThis.DOMPurify"),
    "diff-base.js": File("diff", "libesm/diff/base.js"),
    "diff-array.js": File("diff", "libesm/diff/array.js"),
    "uplot.js": File("uplot", "dist/uPlot.iife.min.js", export="uPlot"),
    "uplot.css": File("uplot", "dist/uPlot.min.css"),
}
IMPORTS: Final = {
    "preact": "./preact.js",
    "preact/hooks": "./hooks.js",
    "@preact/signals-core": "./signals-core.js",
    "./base.js": "./diff-base.js",
}


def adapt(text: str, export: str) -> str:
    """Return a file as the page loads it."""
    text = re.sub(r"\n?(//[#@]|/\*#) ?sourceMappingURL=.*", "", text)
    for name, path in IMPORTS.items():
        text = re.sub(rf"""(\bfrom ?)(["']){re.escape(name)}\2""", rf"\1\2{path}\2", text)
    return f"{text}\nexport default {export};\n" if export else text


def main() -> None:
    """Write the folder anew."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
        command = ["npm", "install", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", *wanted]
        subprocess.run(command, check=True)  # noqa: S603
        modules = Path(folder) / "node_modules"
        for name, file in FILES.items():
            source = (modules / file.package / file.source).read_text("utf-8")
            (VENDOR / name).write_text(adapt(source, file.export), "utf-8")
        licences = []
        for package in PACKAGES:
            (path,) = [each for each in (modules / package).iterdir() if each.name.upper().startswith("LICENSE")][:1]
            licences.append(f"{package} {PACKAGES[package]}\n\n{path.read_text('utf-8').strip()}\n")
        (VENDOR / "LICENSES.txt").write_text(f"\n{'-' * 72}\n\n".join(licences), "utf-8")
        (VENDOR / "README.md").write_text(_readme(modules), "utf-8")


def _readme(modules: Path) -> str:
    head = (
        "# Libraries of the page\n\n"
        "Made by `python -m scripts.vendor_ui` from npm packages; change `PACKAGES` there, not these files. The\n"
        "licences are in `LICENSES.txt`. A test recomputes the hashes.\n\n"
        "| file | package | version | licence | sha256 |\n| --- | --- | --- | --- | --- |\n"
    )
    rows = []
    for name, file in FILES.items():
        about = json.loads((modules / file.package / "package.json").read_text("utf-8"))
        digest = hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()
        rows.append(f"| {name} | {file.package} | {about['version']} | {about['license']} | {digest} |\n")
    return head + "".join(rows)


if __name__ == "__main__":
    main()
