"""What attention blocks share that scale something by a gate."""

from __future__ import annotations

import flax.linen as nn
import jax


class Gated(nn.Module):
    """A block with a gate: one place where it is sown, and where `nn.intercept_methods` can read or replace it."""

    def sow_gate(self, gate: jax.Array) -> jax.Array:
        """Sows the gate as `intermediates/gate` and returns it."""
        self.sow("intermediates", "gate", gate)
        return gate
