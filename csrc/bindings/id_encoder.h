// The two id encoders as Python classes; arrays go through the same caster as everywhere.
#pragma once
#include <atomic>

#include "bindings/call.h"
#include "events/id_encoder.h"

namespace chronorec {

// An encoder that one thread at a time may use: `encode` gives the GIL away, so it does not protect.
template <typename Encoder>
class Guarded {
 public:
  template <typename Use>
  auto use(Use&& use) {
    if (taken_.exchange(true, std::memory_order_acquire))
      throw std::runtime_error("encoder is in use by another thread");
    const Release release{taken_};
    return use(encoder_);
  }

 private:
  struct Release {
    std::atomic<bool>& taken;
    ~Release() { taken.store(false, std::memory_order_release); }
  };

  Encoder encoder_;
  std::atomic<bool> taken_{false};
};

template <typename Encoder>
py::class_<Guarded<Encoder>> define_encoder(py::module_& module, const char* name) {
  return py::class_<Guarded<Encoder>>(module, name)
      .def(py::init<>())
      .def("__len__", [](Guarded<Encoder>& self) { return self.use([](Encoder& e) { return e.size(); }); });
}

inline void define_encoders(py::module_& module) {
  using Ints = Guarded<IntEncoder>;
  using Texts = Guarded<TextEncoder>;
  define_encoder<IntEncoder>(module, "IntEncoder")
      .def("encode",
           [](Ints& self, py::handle keys, py::handle codes, bool insert) {
             Borrow borrows[2];
             const TensorView in = borrows[0].view(keys), out = borrows[1].view(codes);
             self.use([&](IntEncoder& e) { without_gil([&] { e.encode(in, out, insert); }); });
           })
      .def("copy_keys", [](Ints& self, py::handle output) {
        Borrow borrow;
        const TensorView out = borrow.view(output);
        self.use([&](IntEncoder& e) { e.copy_keys(out); });
      });
  define_encoder<TextEncoder>(module, "TextEncoder")
      .def_property_readonly(
          "num_bytes", [](Texts& self) { return self.use([](TextEncoder& e) { return e.num_bytes(); }); })
      .def("encode",
           [](Texts& self, py::handle offsets, py::handle data, py::handle codes, bool insert) {
             Borrow borrows[3];
             const TensorView ends = borrows[0].view(offsets), bytes = borrows[1].view(data),
                              out = borrows[2].view(codes);
             self.use([&](TextEncoder& e) { without_gil([&] { e.encode(ends, bytes, out, insert); }); });
           })
      .def("copy_keys", [](Texts& self, py::handle offsets, py::handle data) {
        Borrow borrows[2];
        const TensorView ends = borrows[0].view(offsets), bytes = borrows[1].view(data);
        self.use([&](TextEncoder& e) { e.copy_keys(ends, bytes); });
      });
}

}  // namespace chronorec
