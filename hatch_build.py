"""Put what is built into the wheel: the man pages that ``make man`` has written, and the native CNI plugin."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILERS = ("cc", "gcc", "clang")
HARDENED = ("-O2", "-fPIE", "-pie", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now", "-s")
WARNINGS = ("-std=c11", "-Wall", "-Wextra")


class BuiltFiles(BuildHookInterface[Any]):
    """The hook of hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add man pages to a wheel, not to an editable installation; add the CNI plugin to both."""
        pages = Path(self.root, "build", "man")
        if version == "standard" and pages.is_dir():
            build_data["shared_data"][str(pages)] = "share/man/man1"
        plugin = self._native_plugin()
        if plugin:
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
            build_data["pure_python"] = False
        build_data["shared_scripts"][str(plugin or Path(self.root, "native", "sandnet-cni.py"))] = "sandnet-cni"

    def _native_plugin(self) -> Path | None:
        """Compile the native CNI plugin; return ``None`` where no C compiler works: the plugin is then in Python."""
        compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
        if compiler is None:
            self.app.display_info("no C compiler: sandnet-cni is in Python")
            return None
        source, target = Path(self.root, "native", "sandnet-cni.c"), Path(self.root, "build", "native", "sandnet-cni")
        target.parent.mkdir(parents=True, exist_ok=True)
        command = [compiler, *WARNINGS, *HARDENED, "-o", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"sandnet-cni is in Python, as its C source does not compile:\n{done.stderr}")
            return None
        return target
