"""The step of setuptools that builds the kernels; pyproject.toml names it, nothing in rnnbench imports it."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from setuptools import Extension
from setuptools.command.build_ext import build_ext

# By its path: setuptools loads this file alone, before there is a package.
KERNELS: dict[str, Any] = runpy.run_path(str(Path(__file__).parent / "build.py"))


class BuildKernels(build_ext):  # type: ignore[misc]
    """Builds the library; where that cannot be done the package is installed all the same."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"  # loaded by its path, by any Python

    def build_extension(self, ext: Extension) -> None:
        try:
            KERNELS["build"](Path(self.get_ext_fullpath(ext.name)).absolute())
        except KERNELS["BuildError"] as error:
            print(f"rnnbench: the compiled kernels are left out: {error}", file=sys.stderr)
