"""What the experiments on posteriors share: targets, methods, and how far draws are from truth."""

import os

# XLA's thread pool is as large as the machine has cores. A batched solve waits in it for parts of
# itself, and on two cores two solves at once wait for ever. Read when JAX starts its backend.
os.environ.setdefault("NPROC", "8")
