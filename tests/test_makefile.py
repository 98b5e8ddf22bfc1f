"""`make up` from a fresh clone: the installation shows how far it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# As pip prints it with `--progress-bar raw`, and without.
RAW = """\
Collecting torch>=2.6
  Downloading torch-2.9.0-cp311-manylinux_2_28_x86_64.whl (899.7 MB)
Progress 0 of 899700000
Progress 200000000 of 899700000
Progress 210000000 of 899700000
Progress 899700000 of 899700000
Collecting idna
  Downloading idna-3.7-py3-none-any.whl (66 kB)
Progress 66000 of 66000
Installing collected packages: idna, torch
Installing collected packages: {many}
""".replace("{many}", ", ".join(f"package-{number}" for number in range(40)))
PIP = """\
#!/bin/sh
case "$*" in
  *--help*) echo "{help}";;
  *"--progress-bar {bar} -e .[engines]"*) cat <<'END'
{says}END
  ;;
  *) echo "ERROR: $*"; exit 1;;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("help_text", "bar"), [("[auto, on, off, raw]", "raw"), ("[on, off]", "on")])
def test_a_large_download_shows_how_far_it_is(tmp_path: Path, help_text: str, bar: str) -> None:
    # Given a virtual environment whose pip says what a real one does
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    pip = venv / "bin" / "pip"
    says = RAW if bar == "raw" else "".join(line for line in RAW.splitlines(True) if not line.startswith("Progress"))
    pip.write_text(PIP.format(help=help_text, bar=bar, says=says))
    pip.chmod(0o755)
    # When the engines are installed
    target = venv / ".has-engines"
    done = subprocess.run(
        ["make", "-C", str(ROOT), f"VENV={venv}", str(target)], capture_output=True, text=True, check=False
    )
    # Then the steps are shown, and of the large file the tenths, where pip tells them
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    tenths = ["    20 % of 899 MB", "    100 % of 899 MB"] if bar == "raw" else []
    assert lines == [
        "  torch>=2.6",
        "    Downloading torch-2.9.0-cp311-manylinux_2_28_x86_64.whl (899.7 MB)",
        *tenths,
        "  idna",
        "  Installing collected packages: idna, torch",
        "  " + says.splitlines()[-1][:147] + "...",
    ]
    assert (venv / "install.log").read_text() == says
    assert target.exists()
