"""Numbers about a state and an item, such as how an item that comes next would be rated."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PairHead(nn.Module):
    """K numbers of a state and an item: ``query_k(state) . item + constant_k(state) + bias_k[item]``.

    Biases of both sides and a product of factors, as in matrix factorisation (Koren, Bell and Volinsky,
    "Matrix factorization techniques for recommender systems", 2009), where a user is the state of now
    (Wu et al., "Recurrent recommender networks", WSDM 2017). A query is a linear map of the state, so that an
    output over the whole catalogue costs as much as the scores do. All is zero at the start.

    Args:
        num_items: catalogue size V.
        width: size D of states and item vectors.
        outputs: K.
    """

    def __init__(self, num_items: int, width: int, outputs: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, outputs * width)
        self.constant = nn.Linear(width, outputs)
        self.item = nn.Parameter(self.constant.weight.new_zeros(num_items, outputs))
        for linear in (self.query, self.constant):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Tensor, items: Tensor, table: Tensor) -> Tensor:
        """Outputs [N, K].

        Args:
            states: [N, D].
            items: int64 [N], the item of each pair.
            table: [V, D], the vectors of the items.
        """
        queries = self.query(states).unflatten(-1, (-1, states.shape[-1]))
        products = (queries * F.embedding(items, table).unsqueeze(1)).sum(-1)
        outputs: Tensor = products + self.constant(states) + F.embedding(items, self.item)
        return outputs
