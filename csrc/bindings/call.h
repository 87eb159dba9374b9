// Turns `void function(const Args&)` of ops.h into a Python function that takes the fields of Args in their
// order, so that core_module.cc needs one line per function.
#pragma once
#include <array>
#include <utility>

#include "bindings/tensor_caster.h"
#include "core/parallel.h"

namespace chronorec {

// Converts one Python argument to whatever the field it initialises is.
struct FromPython {
  py::handle object;
  Borrow* borrow;

  operator TensorView() const { return borrow->view(object); }
  operator int64_t() const { return object.cast<int64_t>(); }
  operator double() const { return object.cast<double>(); }
  operator bool() const { return object.cast<bool>(); }
};

struct AnyField {
  template <typename T>
  operator T() const;
};

template <typename Args, size_t... I>
constexpr auto has_fields(std::index_sequence<I...>) -> decltype(Args{(static_cast<void>(I), AnyField{})...}, true) {
  return true;
}
template <typename Args>
constexpr bool has_fields(...) {
  return false;
}
template <typename Args, size_t N = 40>
constexpr size_t field_count() {
  static_assert(N > 0);
  if constexpr (has_fields<Args>(std::make_index_sequence<N>{}))
    return N;
  else
    return field_count<Args, N - 1>();
}

// Raises KeyboardInterrupt (or whatever a signal handler raised) if the call was stopped on Ctrl-C.
inline void finish_call() {
  if (clear_interrupt()) throw py::error_already_set();
}

template <typename Args, size_t... I>
void call_with(void (*function)(const Args&), PyObject* const* items, std::index_sequence<I...>) {
  std::array<Borrow, sizeof...(I)> borrows;
  const Args args{FromPython{items[I], &borrows[I]}...};
  clear_interrupt();
  {
    py::gil_scoped_release release;
    function(args);
  }
  finish_call();
}

template <typename Args>
void define(py::module_& module, const char* name, void (*function)(const Args&)) {
  constexpr size_t kCount = field_count<Args>();
  module.def(name, [function, name](const py::args& args) {
    if (args.size() != kCount)
      throw py::type_error(std::string(name) + " takes " + std::to_string(kCount) + " arguments, got " +
                           std::to_string(args.size()));
    call_with<Args>(function, reinterpret_cast<PyTupleObject*>(args.ptr())->ob_item,
                    std::make_index_sequence<kCount>{});
  });
}

}  // namespace chronorec
