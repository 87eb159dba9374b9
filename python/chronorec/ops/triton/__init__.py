"""The GPU paths written in Triton, a file per op; imported with the first CUDA tensor that one of them meets.

Nothing here waits for the device: grids follow from shapes, and memory comes from ``torch.empty``, so a call
can be captured in a CUDA graph. What the CPU checks by value (ids, offsets) is therefore not checked here;
it is the caller's to keep. Sums go in an order that depends on shapes alone, so runs agree bitwise.
"""

OPS = (
    "jagged_attention_forward",
    "jagged_attention_backward",
    "pack_items",
    "item_rank",
    "item_topk",
    "item_cross_entropy",
    "item_sampled_loss",
)
