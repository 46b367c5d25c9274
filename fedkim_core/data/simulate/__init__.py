"""Simulated hospitals: patients with latent conditions, and records that agree with them.

Everything made here is synthetic. :mod:`patients` draws who is ill with what, :mod:`image`,
:mod:`recording`, :mod:`tables` and :mod:`text` draw what a hospital of :mod:`hospitals` would
record of it, and :mod:`build` writes the folders.
"""

from fedkim_core.data.simulate.build import SIMULATOR_VERSION, simulate_network

__all__ = ["SIMULATOR_VERSION", "simulate_network"]
