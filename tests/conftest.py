"""One thread for everyone: two thread pools on two cores starve each other. And no test writes into a person's home."""

import atexit
import os
import shutil
import tempfile

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if "VERBOT_CACHE" not in os.environ:
    os.environ["VERBOT_CACHE"] = tempfile.mkdtemp(prefix="verbot-tests-")
    atexit.register(shutil.rmtree, os.environ["VERBOT_CACHE"], ignore_errors=True)
