// Implementation of torch_api.h over torch's stable ABI.

#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>
#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#define MMSPARX_CHECK(condition, ...)                \
  do {                                               \
    if (!(condition)) ::mmsparx::raise(__VA_ARGS__); \
  } while (0)

#define MMSPARX_SCHEMAS(m) STABLE_TORCH_LIBRARY_FRAGMENT(mmsparx, m)
#define MMSPARX_KERNELS(key, m) STABLE_TORCH_LIBRARY_IMPL(mmsparx, key, m)
#define MMSPARX_BOX(function) TORCH_BOX(&function)

namespace mmsparx {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = torch::headeronly::IntHeaderOnlyArrayRef;

// Print parts of messages as ATen prints them.
template <typename T>
void print(std::ostream& to, const T& part) {
  to << part;
}
inline void print(std::ostream& to, const ScalarType& type) { to << torch::headeronly::toString(type); }
inline void print(std::ostream& to, const Shape& sizes) {
  to << '[';
  for (size_t i = 0; i < sizes.size(); i++) to << (i ? ", " : "") << sizes[i];
  to << ']';
}
inline void print(std::ostream& to, const torch::stable::Device& device) {
  using torch::headeronly::DeviceType;
  const DeviceType type = device.type();
  to << (type == DeviceType::CPU    ? "cpu"
         : type == DeviceType::CUDA ? "cuda"
         : type == DeviceType::Meta ? "meta"
         : type == DeviceType::XPU  ? "xpu"
         : type == DeviceType::MPS  ? "mps"
                                    : "privateuseone");
  if (device.has_index()) to << ':' << device.index();
}

template <typename... Parts>
[[noreturn]] void raise(const Parts&... parts) {
  std::ostringstream message;
  (print(message, parts), ...);
  throw std::runtime_error(message.str());
}

// A string argument, owned by the operator that receives it, which has to call string_of once. The argument is not a
// std::string because the conversion in the headers of torch 2.10 and 2.11 leaks the string.
struct Text {
  StringHandle handle;
};
inline std::string string_of(Text text) {
  size_t length;
  const char* data;
  TORCH_ERROR_CODE_CHECK(torch_string_length(text.handle, &length));
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(text.handle, &data));
  const std::string copy(data, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(text.handle));
  return copy;
}

// Equivalents of x.scalar_type() and x.device() == y.device() that do not compare with every existing type.
inline ScalarType scalar_type_of(const Tensor& x) {
  int32_t number;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &number));
  if (number == aoti_torch_dtype_float32()) return ScalarType::Float;
  if (number == aoti_torch_dtype_bfloat16()) return ScalarType::BFloat16;
  if (number == aoti_torch_dtype_float16()) return ScalarType::Half;
  if (number == aoti_torch_dtype_float64()) return ScalarType::Double;
  return x.scalar_type();
}
inline int32_t device_type_number(const Tensor& x) {
  int32_t number;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &number));
  return number;
}
inline bool on_one_device(const Tensor& x, const Tensor& y) {
  return device_type_number(x) == device_type_number(y) && x.get_device_index() == y.get_device_index();
}

// These call C functions, since the functions of torch::stable with the same names look up each operator by name in
// every call.
inline int32_t type_number(ScalarType type) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
}
inline Tensor make_empty(Shape sizes, const Tensor& like, ScalarType type) {
  int32_t number = type_number(type);
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_aten_new_empty(like.get(), sizes.data(), sizes.size(), &number, nullptr, nullptr, 0, nullptr, &made));
  return Tensor(made);
}
inline Tensor make_empty(Shape sizes, const Tensor& like) {
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_aten_new_empty(like.get(), sizes.data(), sizes.size(), nullptr, nullptr, nullptr, 0, nullptr, &made));
  return Tensor(made);
}
inline Tensor make_zeros(Shape sizes, const Tensor& like, ScalarType type) {
  int32_t number = type_number(type);
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_aten_new_zeros(like.get(), sizes.data(), sizes.size(), &number, nullptr, nullptr, 0, nullptr, &made));
  return Tensor(made);
}

inline Tensor make_empty_floats(int64_t count) {
  // The model tensor is on the CPU. It is never destroyed, since torch may be gone when the process ends.
  static const Tensor& none = *new Tensor([] {
    const int64_t size = 0, stride = 1;
    AtenTensorHandle made;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(1, &size, &stride, aoti_torch_dtype_float32(),
                                                    aoti_torch_device_type_cpu(), 0, &made));
    return Tensor(made);
  }());
  return make_empty({count}, none);
}

inline Tensor copy_of(const Tensor& x, ScalarType type) {
  Tensor copy = make_empty(x.sizes(), x, type);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(copy.get(), x.get(), 0));
  return copy;
}
inline Tensor as_type(const Tensor& x, ScalarType type) { return scalar_type_of(x) == type ? x : copy_of(x, type); }
inline Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : copy_of(x, scalar_type_of(x)); }

template <typename Run>
void in_ranges(int64_t count, int64_t grain, const Run& run) {
  const auto call = [](int64_t begin, int64_t end, void* run) { (*static_cast<const Run*>(run))(begin, end); };
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, count, grain, call, const_cast<Run*>(&run)));
}

}  // namespace mmsparx
