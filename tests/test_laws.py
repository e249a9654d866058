"""laws.md says which law is tested where: what it names is there, and it leaves no file of tests out."""

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = re.findall(r"(test_\w+\.py)::(test_\w+)", (HERE / "laws.md").read_text(encoding="utf-8"))


def test_every_test_that_is_named_is_there() -> None:
    missing = [
        f"{file}::{test}"
        for file, test in NAMED
        if not re.search(rf"^def {test}\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert missing == []


def test_every_file_of_tests_is_named() -> None:
    assert {file.name for file in HERE.glob("test_*.py")} == {file for file, _ in NAMED}
