// A node that onnxruntime runs: its inputs, its output and onnxruntime's threads.
//
// onnxruntime rejects a node whose number or types of inputs differ from the operator's declaration; shapes are checked
// here. Errors are thrown as `Failed` with onnxruntime's status, or as an exception that is converted to one.

#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/cpu/grain.h"
#include "onnxruntime.h"

namespace mmsparx::ort {

using Sizes = std::vector<int64_t>;

struct Failed {
  Status* status;
};

inline void check(Status* status) {
  if (status) throw Failed{status};
}

// Formats sizes as (2, 3, 4).
inline std::string in_words(const Sizes& sizes) {
  std::string words;
  for (int64_t size : sizes) words += (words.empty() ? "" : ", ") + std::to_string(size);
  return "(" + words + ")";
}

struct Tensor {
  const float* data;
  Sizes sizes;

  int64_t size(int axis) const { return sizes[axis]; }
};

// Uninitialised memory, aligned to a cache line; null if the allocation fails.
class Memory {
 public:
  explicit Memory(int64_t bytes) : start_(::operator new(size_t(bytes), kLine, std::nothrow)) {}
  Memory(const Memory&) = delete;
  ~Memory() { ::operator delete(start_, kLine); }

  void* get() const { return start_; }

 private:
  static constexpr std::align_val_t kLine{64};
  void* start_;
};

class Node {
 public:
  Node(const Api& api, Context* context, const char* name) : api_(api), context_(context), name_(name) {}

  // Returns an input. `axes` are the names of its axes, for the error if their number is wrong.
  Tensor input(size_t index, const char* name, std::initializer_list<const char*> axes) const {
    const Value* value = nullptr;
    check(api_.KernelContext_GetInput(context_, index, &value));
    Tensor tensor{nullptr, sizes_of(value)};
    if (tensor.sizes.size() != axes.size()) {
      std::string names;
      for (const char* axis : axes) names += (names.empty() ? "" : ", ") + std::string(axis);
      fail(std::string(name) + " of shape (" + names + ")", in_words(tensor.sizes));
    }
    void* data = nullptr;
    check(api_.GetTensorMutableData(const_cast<Value*>(value), &data));
    tensor.data = static_cast<const float*>(data);
    return tensor;
  }

  void expect(const char* name, const Tensor& tensor, const Sizes& sizes) const {
    if (tensor.sizes != sizes) fail(std::string(name) + " of shape " + in_words(sizes), in_words(tensor.sizes));
  }

  [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
    throw std::invalid_argument("mmsparx::" + std::string(name_) + ": expected " + expected + ", got " + got);
  }

  float* output(const Sizes& sizes) const {
    Value* value = nullptr;
    check(api_.KernelContext_GetOutput(context_, 0, sizes.data(), sizes.size(), &value));
    void* data = nullptr;
    check(api_.GetTensorMutableData(value, &data));
    return static_cast<float*>(data);
  }

  // Calls run(begin, end, scratch) on ranges that cover all units, each with scratch memory of its own.
  template <typename Run>
  void in_parallel(int64_t units, int64_t elements_per_unit, int64_t scratch_bytes, const Run& run) const {
    struct Work {
      int64_t units, grain, scratch_bytes;
      const Run& run;
      std::atomic<bool> failed{false};
    } work{units, grain_of(elements_per_unit), scratch_bytes, run};
    // No exception may leave a function that onnxruntime's threads call.
    const auto part = [](void* data, size_t i) {
      Work& work = *static_cast<Work*>(data);
      const Memory scratch(work.scratch_bytes);
      if (!scratch.get()) {
        work.failed = true;
        return;
      }
      const int64_t begin = int64_t(i) * work.grain;
      work.run(begin, std::min(begin + work.grain, work.units), scratch.get());
    };
    const int64_t parts = (units + work.grain - 1) / work.grain;
    check(api_.KernelContext_ParallelFor(context_, part, size_t(parts), 0, &work));
    if (work.failed) throw std::bad_alloc();
  }

 private:
  Sizes sizes_of(const Value* value) const {
    Shape* found = nullptr;
    check(api_.GetTensorTypeAndShape(value, &found));
    const std::unique_ptr<Shape, void (*)(Shape*)> shape(found, api_.ReleaseTensorTypeAndShapeInfo);
    size_t axes = 0;
    check(api_.GetDimensionsCount(found, &axes));
    Sizes sizes(axes);
    check(api_.GetDimensions(found, sizes.data(), axes));
    return sizes;
  }

  const Api& api_;
  Context* context_;
  const char* name_;
};

}  // namespace mmsparx::ort
