"""One thread for everyone: tests share small machines, and two thread pools on two cores starve each other."""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
