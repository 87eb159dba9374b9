// One way from a Python array to a TensorView: the DLPack C exchange API, else the buffer protocol, else
// __dlpack__(). The view is valid while the `Borrow` that made it lives.
#pragma once
#include <pybind11/pybind11.h>

#include "bindings/dlpack.h"
#include "core/check.h"

namespace chronorec {

namespace py = pybind11;

class Borrow {
 public:
  Borrow() = default;
  Borrow(const Borrow&) = delete;
  Borrow& operator=(const Borrow&) = delete;
  ~Borrow() {
    if (has_buffer_) PyBuffer_Release(&buffer_);
  }

  TensorView view(py::handle object) {
    if (object.is_none()) return {};
    if (const dlpack::ExchangeApi* api = exchange_api(object)) return from_exchange(object, api);
    if (PyObject_CheckBuffer(object.ptr())) return from_buffer(object);
    if (py::hasattr(object, "__dlpack__")) return from_capsule(object);
    throw DTypeError(
        "wanted an array (torch, numpy, or anything with __dlpack__ or the buffer protocol), got " +
        std::string(Py_TYPE(object.ptr())->tp_name));
  }

 private:
  static const dlpack::ExchangeApi* exchange_api(py::handle object) {
    // Looked up once per type, failures included: a call mixes two or three types. Cached types live on.
    struct Entry {
      PyTypeObject* type;
      const dlpack::ExchangeApi* api;
    };
    static Entry cache[4] = {};
    static size_t next = 0;
    PyTypeObject* type = Py_TYPE(object.ptr());
    for (const Entry& entry : cache)
      if (entry.type == type) return entry.api;
    const dlpack::ExchangeApi* api = find_exchange_api(reinterpret_cast<PyObject*>(type));
    Py_INCREF(type);
    PyTypeObject* const oldest = cache[next].type;
    cache[next] = {type, api};
    next = (next + 1) % 4;
    Py_XDECREF(oldest);  // last: this may run Python code, which may come here again
    return api;
  }

  static const dlpack::ExchangeApi* find_exchange_api(PyObject* type) {
    PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
    if (capsule == nullptr) {
      PyErr_Clear();
      return nullptr;
    }
    auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
    if (api == nullptr) throw py::error_already_set();
    return api->version.major == 1 && api->borrow_from_object != nullptr ? api : nullptr;
  }

  static TensorView from_exchange(py::handle object, const dlpack::ExchangeApi* api) {
    dlpack::Tensor tensor;
    if (api->borrow_from_object(object.ptr(), &tensor) != 0) throw py::error_already_set();
    return from_dlpack(tensor);
  }

  // The capsule is kept, not consumed: its own destructor frees what it holds.
  TensorView from_capsule(py::handle object) {
    const py::object method = object.attr("__dlpack__");
    try {
      using namespace py::literals;
      keep_ = method("max_version"_a = py::make_tuple(1, 0));
    } catch (py::error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      keep_ = method();  // an exporter from before DLPack 1.0
    }
    if (PyCapsule_IsValid(keep_.ptr(), "dltensor_versioned")) {
      auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(
          PyCapsule_GetPointer(keep_.ptr(), "dltensor_versioned"));
      if (managed->version.major != 1)
        throw DTypeError("wanted DLPack 1, got version " + std::to_string(managed->version.major));
      TensorView view = from_dlpack(managed->tensor);
      view.writable = (managed->flags & 1) == 0;
      return view;
    }
    auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(keep_.ptr(), "dltensor"));
    if (managed == nullptr) throw py::error_already_set();
    return from_dlpack(managed->tensor);
  }

  static DType dtype_of(dlpack::DataType t) {
    if (t.lanes == 1) {
      if (t.code == 2 && t.bits == 32) return DType::f32;
      if (t.code == 4 && t.bits == 16) return DType::bf16;
      if (t.code == 2 && t.bits == 64) return DType::f64;
      if (t.code == 0 && t.bits == 32) return DType::i32;
      if (t.code == 0 && t.bits == 64) return DType::i64;
      if (t.code == 0 && t.bits == 8) return DType::i8;
      if ((t.code == 1 || t.code == 6) && t.bits == 8) return DType::u8;
    }
    throw DTypeError("wanted float32, bfloat16, float64, int32, int64, uint8 or int8, got type code " +
                     std::to_string(t.code) + " with " + std::to_string(t.bits) + " bits");
  }

  static TensorView from_dlpack(const dlpack::Tensor& t) {
    TensorView view;
    if (t.ndim > kMaxDims) throw ShapeError("wanted at most 4 dimensions, got " + std::to_string(t.ndim));
    if (t.device.type != 1 && t.device.type != 2)
      throw DTypeError("wanted an array on the CPU or a CUDA device");
    view.device = t.device.type == 1 ? Device::cpu : Device::cuda;
    view.data = static_cast<char*>(t.data) + t.byte_offset;
    view.ndim = t.ndim;
    view.dtype = dtype_of(t.dtype);
    int64_t step = 1;
    for (int d = t.ndim - 1; d >= 0; --d) {
      view.shape[d] = t.shape[d];
      view.stride[d] = t.strides != nullptr ? t.strides[d] : step;
      step *= t.shape[d];
    }
    return aligned(view);
  }

  static DType dtype_of(const char* format, Py_ssize_t size) {
    while (format != nullptr && (*format == '@' || *format == '=' || *format == '<')) ++format;
    const char c = format == nullptr ? 'B' : format[0] != '\0' && format[1] == '\0' ? format[0] : '\0';
    if (c == 'f') return DType::f32;
    if (c == 'd') return DType::f64;
    if ((c == 'i' || c == 'l' || c == 'q') && size == 4) return DType::i32;
    if ((c == 'l' || c == 'q') && size == 8) return DType::i64;
    if (c == 'b') return DType::i8;
    if (c == 'B' || c == '?') return DType::u8;
    if (c == 'H') return DType::bf16;  // numpy has no bfloat16: its bits travel as uint16
    throw DTypeError(
        "wanted float32, float64, int32, int64, uint8, int8 or (bfloat16 bits as) uint16, got format '" +
        std::string(format) + "'");
  }

  TensorView from_buffer(py::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0)
      throw py::error_already_set();
    has_buffer_ = true;
    TensorView view;
    if (buffer_.ndim > kMaxDims)
      throw ShapeError("wanted at most 4 dimensions, got " + std::to_string(buffer_.ndim));
    view.data = buffer_.buf;
    view.ndim = buffer_.ndim;
    view.dtype = dtype_of(buffer_.format, buffer_.itemsize);
    view.writable = !buffer_.readonly;
    int64_t step = buffer_.itemsize;
    for (int d = buffer_.ndim - 1; d >= 0; --d) {
      const int64_t stride = buffer_.strides != nullptr ? buffer_.strides[d] : step;  // ctypes gives none
      if (stride % buffer_.itemsize != 0 && buffer_.shape[d] > 1)
        throw ShapeError("wanted strides in whole elements, got " + std::to_string(stride) +
                         " bytes between " + std::to_string(buffer_.itemsize) + "-byte elements");
      view.shape[d] = buffer_.shape[d];
      view.stride[d] = stride / buffer_.itemsize;
      step *= buffer_.shape[d];
    }
    return aligned(view);
  }

  static TensorView aligned(const TensorView& view) {
    if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(size_of(view.dtype)) != 0)
      throw ShapeError("wanted data aligned to " + std::to_string(size_of(view.dtype)) + " bytes");
    return view;
  }

  Py_buffer buffer_;
  bool has_buffer_ = false;
  py::object keep_;
};

}  // namespace chronorec
