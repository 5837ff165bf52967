// Runs the GPU kernels on a CPU, so that their numbers can be tested where there is no GPU.
//
// It takes the place of csrc/selective_scan/cuda/platform.h. The 32 lanes of a warp are fibers: each runs until it
// needs the others (a shuffle, a barrier), then the next one does, in an order that changes every time. So a kernel
// that relies on lanes running in step, or on an order, gives other numbers or stops with an error. What it cannot
// show: races between warps, and what the GPU's own instructions round.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#define MMSPARX_INLINE inline
#define MMSPARX_KERNEL(threads, blocks) void
#define MMSPARX_SHARED_MEMORY(name) unsigned char* const name = emulator.shared.data()

namespace mmsparx {
namespace {

using Stream = void*;

struct Index {
  unsigned x;
};

class Emulator {
 public:
  static constexpr int kWarp = 32;
  std::vector<unsigned char> shared;
  Index thread{}, block{};

  template <typename Body>
  void run_block(unsigned number, unsigned threads, size_t shared_bytes, const Body& body) {
    block.x = number;
    shared.assign(shared_bytes, 0xff);  // NaN in every type
    for (unsigned first = 0; first < threads; first += kWarp) run_warp(first, body);
  }

  // The value that lane `from` gives, for all lanes at once.
  template <typename S>
  S exchange(S x, int from) {
    const int lane = lane_, side = uses_[lane]++ % 2;  // two sides: a fast lane's next value overwrites none in use
    std::memcpy(slots_[side][lane], &x, sizeof(x));
    wait();
    std::memcpy(&x, slots_[side][from], sizeof(x));
    return x;
  }

  void wait() {
    const int lane = lane_;
    swapcontext(&lanes_[lane], &scheduler_);
  }

  int lane() const { return lane_; }

 private:
  template <typename Body>
  void run_warp(unsigned first, const Body& body) {
    body_ = [](const void* what) { (*static_cast<const Body*>(what))(); };
    argument_ = &body;
    for (int lane = 0; lane < kWarp; lane++) {
      uses_[lane] = 0;
      stacks_[lane].resize(256 << 10);
      getcontext(&lanes_[lane]);
      lanes_[lane].uc_stack.ss_sp = stacks_[lane].data();
      lanes_[lane].uc_stack.ss_size = stacks_[lane].size();
      lanes_[lane].uc_link = &scheduler_;
      makecontext(&lanes_[lane], enter, 0);
    }
    for (int ended = 0; ended == 0;) {
      order_ = order_ * 1664525u + 1013904223u;
      for (int turn = 0; turn < kWarp; turn++) {
        lane_ = int((order_ >> 8) + turn * 2 * (order_ >> 20) + turn) % kWarp;  // an odd step meets every lane
        thread.x = first + lane_;
        ended_ = false;
        swapcontext(&scheduler_, &lanes_[lane_]);
        ended += ended_;
      }
      if (ended != 0 && ended != kWarp) throw std::runtime_error("some lanes of a warp ended, and others wait");
    }
  }

  static void enter();

  ucontext_t scheduler_, lanes_[kWarp];
  std::vector<char> stacks_[kWarp];
  unsigned char slots_[2][kWarp][8];
  unsigned uses_[kWarp];
  int lane_ = 0;
  bool ended_ = false;
  unsigned order_ = 1;
  void (*body_)(const void*) = nullptr;
  const void* argument_ = nullptr;
};

Emulator emulator;

inline void Emulator::enter() {
  emulator.body_(emulator.argument_);
  emulator.ended_ = true;
}

#define threadIdx emulator.thread
#define blockIdx emulator.block

// As the hardware: a lane without a partner gets its own value back.
template <typename S>
S shuffle_up(S x, int distance) {
  const int lane = emulator.lane();
  return emulator.exchange(x, lane < distance ? lane : lane - distance);
}
template <typename S>
S shuffle_down(S x, int distance) {
  const int lane = emulator.lane();
  return emulator.exchange(x, lane + distance < Emulator::kWarp ? lane + distance : lane);
}
template <typename S>
S shuffle(S x, int lane) {
  return emulator.exchange(x, lane);
}
void sync_warp() { emulator.wait(); }

template <typename Argument>
void launch(void (*kernel)(Argument), unsigned blocks, unsigned threads, size_t shared_bytes, Stream,
            const Argument& argument) {
  for (unsigned block = 0; block < blocks; block++) {
    emulator.run_block(block, threads, shared_bytes, [&] { kernel(argument); });
  }
}

}  // namespace
}  // namespace mmsparx
