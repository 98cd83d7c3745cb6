"""What ClickWidget's scripts compute is right: layout, projection, strokes, keys, kept sittings; run by Node."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from seganypet.widgets.click import SCRIPTS, STATIC, ClickWidget

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="unit tests of scripts need Node: apt-get install nodejs")
def test_what_the_scripts_compute(tmp_path):
    names = re.findall(r"^(?:async )?(?:function|const) (\w+)", ClickWidget._esm, re.MULTILINE)
    module = tmp_path / "scripts.mjs"
    module.write_text(f"{ClickWidget._esm}\nexport {{ {', '.join(dict.fromkeys(names))} }};\n", encoding="utf-8")
    tests = Path(__file__).with_name("scripts.test.mjs")
    command, scripts = [NODE, "--test", str(tests)], {"SCRIPTS": module.as_uri()}
    done = subprocess.run(command, env=scripts, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_script_is_joined_and_names_are_declared_once():
    apart = {"rotate.js", "upload.js", "zip.js"}  # of other widgets
    assert {path.name for path in STATIC.glob("*.js")} == {*SCRIPTS, *apart}
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", ClickWidget._esm, re.MULTILINE)
    assert len(names) == len(set(names))
