// The two id encoders as Python classes; arrays go through the same caster as everywhere.
#pragma once
#include "bindings/call.h"
#include "events/id_encoder.h"

namespace chronorec {

inline void define_encoders(py::module_& module) {
  py::class_<IntEncoder>(module, "IntEncoder")
      .def(py::init<>())
      .def("__len__", &IntEncoder::size)
      .def("encode",
           [](IntEncoder& self, py::handle keys, py::handle codes, bool insert) {
             Borrow borrows[2];
             const TensorView in = borrows[0].view(keys), out = borrows[1].view(codes);
             without_gil([&] { self.encode(in, out, insert); });
           })
      .def("copy_keys", [](const IntEncoder& self, py::handle output) {
        Borrow borrow;
        self.copy_keys(borrow.view(output));
      });
  py::class_<TextEncoder>(module, "TextEncoder")
      .def(py::init<>())
      .def("__len__", &TextEncoder::size)
      .def_property_readonly("num_bytes", &TextEncoder::num_bytes)
      .def("encode",
           [](TextEncoder& self, py::handle offsets, py::handle data, py::handle codes, bool insert) {
             Borrow borrows[3];
             const TensorView ends = borrows[0].view(offsets), bytes = borrows[1].view(data),
                              out = borrows[2].view(codes);
             without_gil([&] { self.encode(ends, bytes, out, insert); });
           })
      .def("copy_keys", [](const TextEncoder& self, py::handle offsets, py::handle data) {
        Borrow borrows[2];
        self.copy_keys(borrows[0].view(offsets), borrows[1].view(data));
      });
}

}  // namespace chronorec
