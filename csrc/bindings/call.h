// Turns `void function(const Args&)` of ops.h into a Python function that takes the fields of Args in their
// order, so that core_module.cc needs one line per function.
#pragma once
#include <unistd.h>

#include <array>
#include <exception>
#include <utility>

#include "bindings/tensor_caster.h"
#include "core/parallel.h"

namespace chronorec {

// The errors of check.h as TypeError and ValueError; for each module once.
inline void register_errors() {
  py::register_local_exception_translator([](std::exception_ptr raised) {
    try {
      if (raised) std::rethrow_exception(raised);
    } catch (const DTypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what());
    } catch (const ShapeError& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
}

// Converts one Python argument to whatever the field it initialises is; an error names the argument.
struct FromPython {
  const char* function;
  size_t position;
  py::handle object;
  Borrow* borrow;

  operator TensorView() const {
    try {
      return borrow->view(object);
    } catch (const ShapeError& error) {
      throw ShapeError(prefix() + error.what());
    } catch (const DTypeError& error) {
      throw DTypeError(prefix() + error.what());
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_Exception)) throw;
      py::raise_from(error, PyExc_TypeError, (prefix() + "cannot be read as an array").c_str());
      throw py::error_already_set();
    }
  }
  operator int64_t() const { return scalar<int64_t>("an integer"); }
  operator double() const { return scalar<double>("a number"); }
  operator bool() const { return scalar<bool>("a bool"); }

 private:
  std::string prefix() const {
    return std::string(function) + " argument " + std::to_string(position + 1) + ": ";
  }
  template <typename T>
  T scalar(const char* wanted) const {
    try {
      return object.cast<T>();
    } catch (const py::cast_error&) {
      throw py::type_error(prefix() + "wanted " + wanted + ", got " + std::string(py::repr(object)));
    }
  }
};

struct AnyField {
  template <typename T>
  operator T() const;
};

template <typename Args, size_t... I>
constexpr auto has_fields(std::index_sequence<I...>)
    -> decltype(Args{(static_cast<void>(I), AnyField{})...}, true) {
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

// Python ends a daemon thread that wants the GIL back while the interpreter exits by unwinding its stack,
// which C++ answers with an abort (py::gil_scoped_release does). Such a thread waits here for the end of the
// process.
inline void take_gil_back(PyThreadState* state) {
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    for (;;) pause();
  }
}

// Runs work() without the GIL, so that other Python threads go on and Ctrl-C can stop it.
template <typename Work>
void without_gil(Work&& work) {
  clear_interrupt();
  std::exception_ptr error;
  PyThreadState* state = PyEval_SaveThread();
  const PinnedThreads pinned(num_threads());
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  take_gil_back(state);
  finish_call();  // first: whatever failed after the interrupt failed because of it
  if (error) std::rethrow_exception(error);
}

template <typename Args, size_t... I>
void call_with(const char* name, void (*function)(const Args&), PyObject* const* items,
               std::index_sequence<I...>) {
  std::array<Borrow, sizeof...(I)> borrows;
  const Args args{FromPython{name, I, items[I], &borrows[I]}...};
  without_gil([&] { function(args); });
}

template <typename Args>
void define(py::module_& module, const char* name, void (*function)(const Args&)) {
  constexpr size_t kCount = field_count<Args>();
  static_assert(kCount < 40, "field_count() must start higher");
  module.def(name, [function, name](const py::args& args) {
    if (args.size() != kCount)
      throw py::type_error(std::string(name) + " takes " + std::to_string(kCount) + " arguments, got " +
                           std::to_string(args.size()));
    call_with<Args>(name, function, reinterpret_cast<PyTupleObject*>(args.ptr())->ob_item,
                    std::make_index_sequence<kCount>{});
  });
}

}  // namespace chronorec
