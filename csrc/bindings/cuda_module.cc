// chronorec._cuda: the functions of cuda/on_stream.h. Arguments are the fields of the function's args struct
// in csrc/ops.h, positional, in their order, and last the stream as an integer (torch's `cuda_stream`).
#include "bindings/call.h"
#include "cuda/on_stream.h"

namespace chronorec {
namespace {

template <typename Args, size_t... I>
void call_on_stream(const char* name, void (*function)(const Args&, cuda::Stream), const py::args& arguments,
                    std::index_sequence<I...>) {
  std::array<Borrow, sizeof...(I)> borrows;
  const Args args{FromPython{name, I, arguments[I], &borrows[I]}...};
  const auto stream = reinterpret_cast<cuda::Stream>(arguments[sizeof...(I)].template cast<uintptr_t>());
  function(args, stream);  // returns at once: nothing to give the GIL away for
}

template <typename Args>
void define_on_stream(py::module_& module, const char* name, void (*function)(const Args&, cuda::Stream)) {
  constexpr size_t kCount = field_count<Args>();
  module.def(name, [function, name](const py::args& arguments) {
    if (arguments.size() != kCount + 1)
      throw py::type_error(std::string(name) + " takes " + std::to_string(kCount + 1) + " arguments, got " +
                           std::to_string(arguments.size()));
    call_on_stream<Args>(name, function, arguments, std::make_index_sequence<kCount>{});
  });
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels of chronorec; importing it touches no GPU.";
  register_errors();
  m.attr("__version__") = CHRONOREC_VERSION;
#define CHRONOREC_ENTRY(name, Args) define_on_stream<Args>(m, #name, cuda::name);
  CHRONOREC_ON_STREAM(CHRONOREC_ENTRY)
#undef CHRONOREC_ENTRY
#define CHRONOREC_ENTRY(name, ...) m.def(#name, &cuda::name);
  CHRONOREC_ON_STREAM_SCRATCH(CHRONOREC_ENTRY)
#undef CHRONOREC_ENTRY
}

}  // namespace chronorec
