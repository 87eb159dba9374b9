// The contract of the core: one args struct per function, every pointer with its shape.
//
// Legend: B sequences or queries, N events in all, T steps, I input size, H hidden size, D head or state
// width, A attention heads, V items, K results kept or negatives drawn, M targets or list entries in all.
// Arrays are C-contiguous unless "rows may be strided" is said. Offsets are int64 [B + 1], ascending from 0
// to the total. float means fp32; "float/bf16" arrays of one call share one dtype. Outputs and scratch belong
// to the caller, are written in full (scratch: no promise on its content) and may not overlap anything else.
// `scratch` is uint8, aligned to 64, of at least <function>_scratch(...) bytes. The size may depend on
// num_threads(): a call whose scratch was sized for fewer threads than are wanted by then runs on as many as
// it has room for. Bad arguments throw ShapeError or DTypeError (core/check.h) before anything is written.
#pragma once
#include "ops/attention.h"
#include "ops/graph.h"
#include "ops/items.h"
#include "ops/layers.h"
#include "ops/losses.h"
#include "ops/recurrence.h"
#include "ops/recurrent.h"
