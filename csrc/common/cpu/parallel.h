// Parallel loops on torch's threads, and scratch memory for each thread.

#pragma once

#include "../torch_api.h"
#include "grain.h"

namespace mmsparx {

// Scratch memory of one thread, aligned to a cache line.
class ThreadScratch {
 public:
  // The memory is a tensor of floats: where tests let torch fill uninitialised memory, it is filled with NaN.
  explicit ThreadScratch(int64_t bytes) : memory_(make_empty_floats((bytes + kLine) / 4)) {}

  void* get() {
    char* const start = static_cast<char*>(memory_.mutable_data_ptr());
    return start + (kLine - reinterpret_cast<uintptr_t>(start) % kLine) % kLine;
  }

 private:
  static constexpr int64_t kLine = 64;
  Tensor memory_;
};

// Calls run(begin, end) on ranges that cover all units.
template <typename Run>
void in_parallel(int64_t units, int64_t elements_per_unit, const Run& run) {
  in_ranges(units, grain_of(elements_per_unit), run);
}

// Sums doubles over the batch, in order: (batch, ...) -> (...), in the type of `like`.
inline Tensor sum_over_batch(const Tensor& partial, const Tensor& like) {
  Tensor total = make_empty(partial.sizes().slice(1), like);
  const int64_t batch = partial.size(0), size = total.numel();
  const double* const from = partial.const_data_ptr<double>();
  auto add = [&](auto* to) {
    for (int64_t i = 0; i < size; i++) {
      double sum = 0;
      for (int64_t b = 0; b < batch; b++) sum += from[b * size + i];
      to[i] = sum;
    }
  };
  scalar_type_of(total) == ScalarType::Double ? add(total.mutable_data_ptr<double>())
                                              : add(total.mutable_data_ptr<float>());
  return total;
}

}  // namespace mmsparx
