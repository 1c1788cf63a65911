"""Marks the wheel for this platform and every Python 3, as it holds programs and no extension modules, and adds
libduckdb where the commands look for it: in `lib/headstart` beside `bin`."""

import os
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelOfPrograms(BuildHookInterface):
    def initialize(self, version, build_data):
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        folder = os.path.join(self.root, "stage", "lib")
        # File by file: of a folder, hatchling takes what it does not hold for the result of a build.
        for name in sorted(os.listdir(folder)):
            build_data["shared_data"][os.path.join(folder, name)] = f"lib/headstart/{name}"
