"""The graph of the graph benchmarks."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from benchmarks.harness import generator
from chronorec.ops import Graph, make_graph


@cache
def bipartite(num_users: int = 29_858, num_items: int = 40_981, num_edges: int = 1_027_370) -> Graph:
    """Users and items, joined both ways: by default as many as in Gowalla, and degrees like its own.

    There a user has 9 events or more, 20 in the median, 228 at the 99th percentile and 1,014 at most; an item
    10, 15, 173 and 2,310. Both are a constant and a log-normal.
    """
    draws = generator(0)

    def ends(count: int, least: float, mu: float, sigma: float) -> Tensor:
        weight = least + torch.exp(mu + sigma * torch.randn(count, generator=draws))
        return torch.multinomial(weight, num_edges, replacement=True, generator=draws)

    user, item = ends(num_users, 9, 2.4, 1.3), num_users + ends(num_items, 10, 1.61, 1.5)
    destination, source = torch.cat([user, item]), torch.cat([item, user])
    nodes = num_users + num_items
    order = (destination * nodes + source).argsort()
    offsets = torch.zeros(nodes + 1, dtype=torch.int64)
    offsets[1:] = destination.bincount(minlength=nodes).cumsum(0)
    return make_graph(offsets, source[order].int())
