"""fedkim: federated knowledge injection for medical foundation models."""

import os

__version__ = "0.1.0"

# Torch's threads wait for one another in a busy loop (libgomp). Where something else wants a core
# as well, a step of the injection then took 16 s in place of 2; with a short loop, 2.5. libgomp
# reads this when torch is loaded, so this package is to be imported first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
