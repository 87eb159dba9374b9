// The part of the DLPack 1.x ABI that the tensor caster reads (https://dmlc.github.io/dlpack).
#pragma once
#include <stdint.h>

namespace chronorec::dlpack {

struct Device {
  int32_t type;  // 1 CPU, 2 CUDA
  int32_t id;
};
struct DataType {
  uint8_t code;  // 0 int, 1 uint, 2 float, 4 bfloat, 6 bool
  uint8_t bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; may be null for contiguous data before version 1.2
  uint64_t byte_offset;
};
struct Version {
  uint32_t major, minor;
};
struct ManagedTensor {  // capsule "dltensor"
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};
struct ManagedTensorVersioned {  // capsule "dltensor_versioned"
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;  // bit 0: read only
  Tensor tensor;
};

// What the capsule `type(x).__dlpack_c_exchange_api__`, named "dlpack_exchange_api", points to.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  void* allocate;
  int (*managed_from_object)(void* object, ManagedTensorVersioned** out);
  void* managed_to_object;
  int (*borrow_from_object)(void* object, Tensor* out);  // may be null
  void* current_work_stream;
};

}  // namespace chronorec::dlpack
