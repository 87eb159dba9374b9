// Table of contents of chronorec._core: one line per function. Arguments are the fields of the function's
// args struct in csrc/ops.h, positional, in their order.
#include "bindings/call.h"
#include "core/cpu_isa.h"
#include "ops.h"

namespace chronorec {
namespace {

// Called without the GIL by the thread that entered the core. Only the main thread ever sees a signal.
bool signal_pending() {
  py::gil_scoped_acquire acquire;
  return PyErr_CheckSignals() != 0;
}

void register_errors() {
  py::register_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const DTypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const ShapeError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Compiled core of chronorec; knows neither torch nor numpy.";
  register_errors();
  set_interrupt_hook(signal_pending);

  m.attr("__version__") = CHRONOREC_VERSION;
  m.attr("level") = name_of(selected_level());
  m.attr("best_level") = name_of(best_level());
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads);

  define(m, "dense", dense);
  define(m, "layer_norm", layer_norm);
  define(m, "pack_panels", pack_panels);

  // gru
  define(m, "gru_forward", gru_forward);
  define(m, "gru_step", gru_step);
  define(m, "gru_backward", gru_backward);
  m.def("gru_forward_scratch", &gru_forward_scratch);
  m.def("gru_step_scratch", &gru_step_scratch);
  m.def("gru_backward_scratch", &gru_backward_scratch);
}

}  // namespace chronorec
