"""What is known of a user besides events, as learned vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chronorec.nn.categories import Category


class UserProfile(nn.Module):
    """Turns a state into the state of a user with a profile.

    That is state + contract(silu(expand(state + vectors))), with a learned vector for each column's category
    (and for a missing one); it starts as the state itself.

    Args:
        counts: number of categories of each column.
        width: size D of the states.
    """

    def __init__(self, counts: Sequence[int], width: int) -> None:
        super().__init__()
        self.columns = nn.ModuleList(Category(count, width) for count in counts)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        nn.init.zeros_(self.contract.weight)
        nn.init.zeros_(self.contract.bias)

    def forward(self, states: Tensor, offsets: Tensor, profile: Tensor) -> Tensor:
        """states [N, D] of B sequences, offsets int64 [B + 1], profile codes int64 [B, C] -> [N, D]."""
        codes = torch.repeat_interleave(profile, offsets.diff(), dim=0, output_size=len(states))
        known = states
        for place, column in enumerate(self.columns):
            known = column(known, codes[:, place])
        inner = nn.functional.silu(self.expand(known))
        of_user: Tensor = states + self.contract(inner)
        return of_user
