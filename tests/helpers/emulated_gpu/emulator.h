// Runs the GPU kernels on a CPU, so that their numbers can be tested without a GPU.
//
// This file replaces csrc/selective_scan/cuda/platform.h. A block's threads are fibers: each runs until it needs the
// other lanes of its warp (a shuffle, a barrier) or the other warps. Then the next one runs, in an order that changes
// every time, as does that of the warps. A kernel that relies on lanes in lockstep, or on an order, gives other numbers
// or stops with an error. So does a kernel whose lanes wait for different things, that accesses a misaligned address,
// writes beyond its shared memory or requests more than there is.
//
// The emulation cannot show a missing barrier if there is a shuffle between a write and another lane's read, which
// orders memory here but not on a GPU; most races between warps, which run one after another between two barriers; and
// the rounding of the GPU's own instructions.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>
#include <vector>

#define MMSPARX_INLINE inline
#define MMSPARX_BOTH inline
#define MMSPARX_KERNEL(threads, blocks) void
#define MMSPARX_SHARED_MEMORY(name) unsigned char* const name = emulator.shared.data()

namespace mmsparx {
namespace {

using Stream = void*;

// The emulated GPU is small, so that small inputs fill it.
int64_t enough_warps() { return 8; }
constexpr size_t kSharedBytes = 48 << 10;

// The tests choose whether any number of rows fills the GPU, or none.
bool lanes_fill = false;
bool lanes_fill_device(int64_t, int64_t) { return lanes_fill; }

// The value of a GPU with compute capability 9.0.
size_t most_shared_bytes() { return 113 << 10; }
int64_t blocks_that_fit(size_t shared_bytes) { return (228 << 10) / (int64_t(shared_bytes) + (1 << 10)); }

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
    shared.assign(shared_bytes + kGuard, kFill);
    body_ = [](const void* what) { (*static_cast<const Body*>(what))(); };
    argument_ = &body;
    if (warps_.size() < threads / kWarp) warps_ = std::vector<Warp>(threads / kWarp);  // contexts cannot be moved
    const size_t warps = threads / kWarp;
    for (size_t i = 0; i < warps; i++) start(warps_[i]);
    for (size_t ended = 0; ended < warps;) {
      const size_t first = random() % warps;
      size_t waiting = 0;
      ended = 0;
      for (size_t i = 0; i < warps; i++) {
        const size_t w = (first + i) % warps;
        if (warps_[w].state == kRuns) run_to_block_barrier(warps_[w], unsigned(w) * kWarp);
        waiting += warps_[w].state == kWaitsForBlock;
        ended += warps_[w].state == kEnded;
      }
      if (waiting > 0 && ended > 0) throw std::runtime_error("some warps of a block ended, and others wait");
      for (size_t i = 0; i < warps; i++) {
        if (warps_[i].state == kWaitsForBlock) warps_[i].state = kRuns;
      }
    }
    for (size_t i = shared_bytes; i < shared.size(); i++) {
      if (shared[i] != kFill) throw std::runtime_error("a block wrote beyond its shared memory");
    }
  }

  // Returns the value of lane `from`; all lanes must call this with the same `kind`.
  template <typename S>
  S exchange(S x, int from, int kind) {
    Warp& warp = *warp_;
    const int lane = lane_, side = warp.uses[lane]++ % 2;  // two: a fast lane must not overwrite a value in use
    std::memcpy(warp.slots[side][lane], &x, sizeof(x));
    wait(kRuns, kind);
    std::memcpy(&x, warp.slots[side][from], sizeof(x));
    return x;
  }

  void sync_warp() { wait(kRuns, 0); }
  void sync_block() { wait(kWaitsForBlock, 0); }
  int lane() const { return lane_; }

 private:
  static constexpr unsigned char kFill = 0xff;  // NaN in every type
  static constexpr size_t kGuard = 256;         // bytes
  enum State { kRuns, kWaitsForBlock, kEnded };

  struct Warp {
    State state;
    ucontext_t lanes[kWarp];
    std::vector<char> stacks[kWarp];
    unsigned char slots[2][kWarp][8];
    unsigned uses[kWarp];
  };

  void start(Warp& warp) {
    warp.state = kRuns;
    for (int lane = 0; lane < kWarp; lane++) {
      warp.uses[lane] = 0;
      warp.stacks[lane].resize(256 << 10);
      getcontext(&warp.lanes[lane]);
      warp.lanes[lane].uc_stack.ss_sp = warp.stacks[lane].data();
      warp.lanes[lane].uc_stack.ss_size = warp.stacks[lane].size();
      warp.lanes[lane].uc_link = &scheduler_;
      makecontext(&warp.lanes[lane], enter, 0);
    }
  }

  void run_to_block_barrier(Warp& warp, unsigned first_thread) {
    warp_ = &warp;
    while (warp.state == kRuns) {
      int states[3] = {}, kinds = 0;
      const int order = int(random());
      for (int turn = 0; turn < kWarp; turn++) {
        lane_ = (order % kWarp + turn * (2 * (order / kWarp % kWarp) + 1)) % kWarp;  // an odd step meets every lane
        thread.x = first_thread + lane_;
        const int kind = lane_kind_;
        lane_state_ = kEnded;
        swapcontext(&scheduler_, &warp.lanes[lane_]);
        if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
        states[lane_state_]++;
        kinds += turn > 0 && lane_kind_ != kind;
      }
      warp.state = lane_state_;
      if (states[lane_state_] != kWarp || kinds != 0) throw std::runtime_error("lanes of a warp wait for different things, or ended");
    }
  }

  void wait(State state, int kind) {
    const int lane = lane_;
    lane_state_ = state;
    lane_kind_ = kind;
    swapcontext(&warp_->lanes[lane], &scheduler_);
  }

  unsigned random() {
    random_ = random_ * 1664525u + 1013904223u;
    return random_ >> 8;
  }

  static void enter();

  ucontext_t scheduler_;
  std::vector<Warp> warps_;
  Warp* warp_ = nullptr;
  int lane_ = 0;
  State lane_state_ = kRuns;
  int lane_kind_ = 0;
  std::exception_ptr error_;
  unsigned random_ = 1;
  void (*body_)(const void*) = nullptr;
  const void* argument_ = nullptr;
};

Emulator emulator;

inline void Emulator::enter() {
  try {
    emulator.body_(emulator.argument_);
  } catch (...) {  // an exception cannot leave a fiber
    emulator.error_ = std::current_exception();
  }
  emulator.lane_state_ = kEnded;
  emulator.lane_kind_ = 0;
}

#define threadIdx emulator.thread
#define blockIdx emulator.block

// As on a GPU, a lane without a partner gets its own value back.
template <typename S>
S shuffle_up(S x, int distance) {
  const int lane = emulator.lane();
  return emulator.exchange(x, lane < distance ? lane : lane - distance, distance);
}
template <typename S>
S shuffle_down(S x, int distance) {
  const int lane = emulator.lane();
  return emulator.exchange(x, lane + distance < Emulator::kWarp ? lane + distance : lane, -distance);
}
template <typename S>
S shuffle(S x, int lane) {
  return emulator.exchange(x, lane, Emulator::kWarp + lane);
}
template <typename S>
S shuffle_xor(S x, int distance) {
  return emulator.exchange(x, emulator.lane() ^ distance, 2 * Emulator::kWarp + distance);
}
void sync_warp() { emulator.sync_warp(); }
void sync_block() { emulator.sync_block(); }

template <typename T>
T opaque(T x) {
  return x;
}

template <int kBytes>
void check_aligned(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % kBytes) throw std::runtime_error("an address is not aligned");
}

template <typename Argument>
void launch(void (*kernel)(Argument), unsigned blocks, unsigned threads, size_t shared_bytes, Stream,
            const Argument& argument) {
  if (shared_bytes > most_shared_bytes() || threads % Emulator::kWarp || blocks == 0) {
    throw std::runtime_error("a GPU refuses this launch");
  }
  for (unsigned block = 0; block < blocks; block++) {
    emulator.run_block(block, threads, shared_bytes, [&] { kernel(argument); });
  }
}

}  // namespace
}  // namespace mmsparx
