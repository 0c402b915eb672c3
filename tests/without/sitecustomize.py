"""Makes packages look as if they were not installed: those that VERBOT_TEST_MISSING names, by their import names.

A folder on PYTHONPATH that holds this file does so in a process and in all that it starts.
"""

import os
import sys
from importlib.machinery import PathFinder

MISSING = frozenset(filter(None, os.environ.get("VERBOT_TEST_MISSING", "").split(",")))


class Without:
    """The finder of installed packages, blind to some."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in MISSING else PathFinder.find_spec(name, path, target)

    @staticmethod
    def find_distributions(context):
        found = PathFinder.find_distributions(context)
        return (each for each in found if each.metadata["Name"].lower().replace("-", "_") not in MISSING)

    invalidate_caches = PathFinder.invalidate_caches


sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
