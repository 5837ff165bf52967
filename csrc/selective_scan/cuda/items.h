// Adjacent items of a row, which one lane loads, holds and stores.

#pragma once

#include <type_traits>

#include "platform.h"
//
#include "../../common/numbers.h"

namespace mmsparx {
namespace {

template <typename In>
using State = typename StateOf<In>::type;

MMSPARX_INLINE float unpack(uint32_t word, int, float) { return float_from_bits(word); }
MMSPARX_INLINE double unpack(uint64_t word, int, double) {
  double x;
  memcpy(&x, &word, sizeof(x));
  return x;
}
MMSPARX_INLINE float unpack(uint32_t word, int i, BFloat16) {
  return float_from_bits(i == 0 ? word << 16 : word & 0xffff0000u);
}
MMSPARX_INLINE float unpack(uint32_t word, int i, Half) { return widen(Half{uint16_t(word >> 16 * i)}); }

MMSPARX_INLINE uint32_t pack(const float* x, float) { return bits_of(*x); }
MMSPARX_INLINE uint64_t pack(const double* x, double) {
  uint64_t word;
  memcpy(&word, x, sizeof(word));
  return word;
}
MMSPARX_INLINE uint32_t pack(const float* x, BFloat16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(x[1]), "f"(x[0]));
  return word;
#else
  BFloat16 low, high;
  narrow(x[0], low);
  narrow(x[1], high);
  return low.bits | uint32_t(high.bits) << 16;
#endif
}
MMSPARX_INLINE uint32_t pack(const float* x, Half) {
  Half low, high;
  narrow(x[0], low);
  narrow(x[1], high);
  return low.bits | uint32_t(high.bits) << 16;
}

// The bytes that one instruction moves.
template <int kBytes>
struct alignas(kBytes) Piece {
  static constexpr int kWord = kBytes < 8 ? kBytes : 4;
  using Word = std::conditional_t<kWord == 2, uint16_t, uint32_t>;
  Word words[kBytes / kWord];
};

// kItems numbers of type T, which are converted one by one on use; a register holds two 16-bit numbers.
//
// The first `valid` items lie within the row, or all of them if kWhole. `vector` is the number of items that one
// instruction moves, up to 16 bytes: a power of two that divides all distances between addresses, and `valid` where it
// is below kItems.
template <typename T, int kItems>
struct Items {
  using S = State<T>;
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr int kPerWord = sizeof(Word) / sizeof(T);
  static constexpr int kWidest = kItems * sizeof(T) <= 16 ? kItems : 16 / sizeof(T);
  static_assert(kItems % kPerWord == 0, "items fill their words");

  Word words[kItems / kPerWord];

  MMSPARX_INLINE S operator[](int i) const { return unpack(words[i / kPerWord], i % kPerWord, T{}); }

  MMSPARX_INLINE void assign(const S (&values)[kItems]) {
#pragma unroll
    for (int i = 0; i < kItems; i += kPerWord) words[i / kPerWord] = pack(values + i, T{});
  }

  // Loads zeros for items that are not valid. The first `invalid` items are not valid either, and `vector` divides
  // their number, too.
  template <bool kWhole, int kPiece = kWidest>
  MMSPARX_INLINE void load(const T* from, int valid, int vector, int invalid = 0) {
    if constexpr (kPiece > 1) {
      if (vector < kPiece) return load<kWhole, kPiece / 2>(from, valid, vector, invalid);
    }
    constexpr int kBytes = kPiece * sizeof(T);
#pragma unroll
    for (int i = 0; i < kItems; i += kPiece) {
      Piece<kBytes> piece{};
      if (kWhole || (i < valid && i >= invalid)) {
        check_aligned<kBytes>(from + i);
        piece = *reinterpret_cast<const Piece<kBytes>*>(from + i);
      }
      if constexpr (kBytes == 2) {
        words[i / 2] = i % 2 ? words[i / 2] | uint32_t(piece.words[0]) << 16 : piece.words[0];
      } else {
        memcpy(words + i / kPerWord, &piece, kBytes);
      }
    }
  }

  template <bool kWhole, int kPiece = kWidest>
  MMSPARX_INLINE void store(T* to, int valid, int vector, int invalid = 0) const {
    if constexpr (kPiece > 1) {
      if (vector < kPiece) return store<kWhole, kPiece / 2>(to, valid, vector, invalid);
    }
    constexpr int kBytes = kPiece * sizeof(T);
#pragma unroll
    for (int i = 0; i < kItems; i += kPiece) {
      Piece<kBytes> piece;
      if constexpr (kBytes == 2) {
        piece.words[0] = uint16_t(words[i / 2] >> 16 * (i % 2));
      } else {
        memcpy(&piece, words + i / kPerWord, kBytes);
      }
      if (kWhole || (i < valid && i >= invalid)) {
        check_aligned<kBytes>(to + i);
        *reinterpret_cast<Piece<kBytes>*>(to + i) = piece;
      }
    }
  }

  // Reverses the items: the last one becomes the first.
  MMSPARX_INLINE void reverse() {
    constexpr int kWords = kItems / kPerWord;
#pragma unroll
    for (int i = 0; i < (kWords + 1) / 2; i++) {
      const Word word = turned(words[i]);
      words[i] = turned(words[kWords - 1 - i]);
      words[kWords - 1 - i] = word;
    }
  }

 private:
  static MMSPARX_INLINE Word turned(Word word) {
    if constexpr (kPerWord == 1) return word;
    return word >> 16 | word << 16;
  }
};

}  // namespace
}  // namespace mmsparx
