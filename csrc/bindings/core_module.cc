// Table of contents of chronorec._core: one line per function. Arguments are the fields of the function's
// args struct in csrc/ops.h, positional, in their order.
#include <sys/syscall.h>
#include <unistd.h>

#include "bindings/call.h"
#include "bindings/engine.h"
#include "bindings/id_encoder.h"
#include "core/cpu_isa.h"
#include "events/events.h"
#include "ops.h"

namespace chronorec {
namespace {

// Called without the GIL by the thread that entered the core. Python handles signals on the main thread only;
// the others are spared the wait for the GIL.
bool signal_pending() {
  if (syscall(SYS_gettid) != getpid()) return false;
  py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled core of chronorec; knows neither torch nor numpy.";
  register_errors();
  set_interrupt_hook(signal_pending);

  m.attr("__version__") = CHRONOREC_VERSION;
  m.attr("level") = name_of(selected_level());
  m.attr("best_level") = name_of(best_level());
  m.attr("amx") = has_amx();
  m.def("set_amx", &set_amx);
  num_threads();  // a bad CHRONOREC_THREADS is refused now, as CHRONOREC_ISA is: kernels cannot throw
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);

  define(m, "dense", dense);
  define(m, "embed", embed);
  define(m, "layer_norm", layer_norm);
  define(m, "pack_panels", pack_panels);

  // events
  define_encoders(m);
  define(m, "group_events", group_events);
  define(m, "gather_events", gather_events);
  define(m, "count_codes", count_codes);
  define(m, "count_duplicates", count_duplicates);
  // items: best of all, rank among all, scores of some
  define(m, "item_topk", item_topk);
  m.def("item_topk_scratch", &item_topk_scratch);
  define(m, "item_rank", item_rank);
  m.def("item_rank_scratch", &item_rank_scratch);
  define(m, "item_score", item_score);
  define(m, "jagged_attention_forward", jagged_attention_forward);
  define(m, "jagged_attention_backward", jagged_attention_backward);
  define(m, "jagged_attention_step", jagged_attention_step);
  m.def("jagged_attention_forward_scratch", &jagged_attention_forward_scratch);
  m.def("jagged_attention_backward_scratch", &jagged_attention_backward_scratch);
  m.def("jagged_attention_step_scratch", &jagged_attention_step_scratch);
  // item_cross_entropy
  define(m, "item_cross_entropy", item_cross_entropy);
  m.def("item_cross_entropy_scratch", &item_cross_entropy_scratch);
  // gru, lstm, rnn
  define(m, "gru_pack", gru_pack);
  define(m, "gru_forward", gru_forward);
  define(m, "gru_step", gru_step);
  define(m, "gru_backward", gru_backward);
  m.def("gru_forward_scratch", &gru_forward_scratch);
  m.def("gru_step_scratch", &gru_step_scratch);
  m.def("gru_backward_scratch", &gru_backward_scratch);
  define(m, "lstm_pack", lstm_pack);
  define(m, "lstm_forward", lstm_forward);
  define(m, "lstm_step", lstm_step);
  define(m, "lstm_backward", lstm_backward);
  m.def("lstm_forward_scratch", &lstm_forward_scratch);
  m.def("lstm_step_scratch", &lstm_step_scratch);
  m.def("lstm_backward_scratch", &lstm_backward_scratch);
  define(m, "rnn_pack", rnn_pack);
  define(m, "rnn_tanh_forward", rnn_tanh_forward);
  define(m, "rnn_relu_forward", rnn_relu_forward);
  define(m, "rnn_tanh_step", rnn_tanh_step);
  define(m, "rnn_relu_step", rnn_relu_step);
  define(m, "rnn_tanh_backward", rnn_tanh_backward);
  define(m, "rnn_relu_backward", rnn_relu_backward);
  m.def("rnn_forward_scratch", &rnn_forward_scratch);
  m.def("rnn_step_scratch", &rnn_step_scratch);
  m.def("rnn_backward_scratch", &rnn_backward_scratch);
  // graph
  define(m, "graph_transpose", graph_transpose);
  m.def("graph_transpose_scratch", &graph_transpose_scratch);
  define(m, "graph_sum", graph_sum);
  define(m, "graph_dot", graph_dot);
  define(m, "graph_max", graph_max);
  define(m, "graph_max_backward", graph_max_backward);
  m.def("graph_scratch", &graph_scratch);
  define(m, "graph_attention_forward", graph_attention_forward);
  define(m, "graph_attention_backward", graph_attention_backward);
  m.def("graph_attention_scratch", &graph_attention_scratch);
  m.def("graph_attention_backward_scratch", &graph_attention_backward_scratch);
  // item_topk: tables in short codes
  define(m, "pack_item_codes", pack_item_codes);
  // item_sampled_loss
  define(m, "item_sampled_loss", item_sampled_loss);
  m.def("item_sampled_loss_scratch", &item_sampled_loss_scratch);
  define_engine(m);
}

}  // namespace chronorec
