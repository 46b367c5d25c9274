"""SCAFFOLD (Karimireddy et al. 2020, algorithm 1, option II), on each module."""

from torch import Tensor

from fedkim_core.corrections import Correction


class Scaffold(Correction):
    def offset(self, shared: Tensor, own: Tensor) -> Tensor:
        """``y = y - rate (g(y) - c_i + c)``."""
        return shared - own

    def renew(self, shared: Tensor, own: Tensor, change: Tensor, rate: float) -> Tensor:
        """``c_i+ = c_i - c + (x - y) / (K rate)``: the mean of the site's gradients."""
        return own - shared - change / rate

    def fold(self, shared: Tensor, change: Tensor, share: float) -> Tensor:
        """``c + |S|/N mean(c_i+ - c_i)``; the mean is the one of the weights."""
        return shared + share * change


def correction() -> Correction:
    return Scaffold()
