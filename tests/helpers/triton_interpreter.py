"""Changes of Triton's interpreter that bring it closer to a GPU, for a process under TRITON_INTERPRET=1.

Its own scan visits one element after the other, 60 us each and in an order that no GPU takes; it rounds to
bfloat16 towards zero; its fma rounds twice; and numpy 2.4 refuses its bounds of loops. Written for Triton 3.6,
which the tests run with.
"""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def _tensors(self, data, like):
    return [self.to_tensor(x, y.dtype) for x, y in zip(data, like, strict=True)]


def scan_by_doubling(self, inputs):
    """`associative_scan` as a tree: each element is composed with the one 1, 2, 4, ... before it."""
    kept = [x.handle.data for x in inputs]
    places = np.arange(kept[0].shape[self.axis])
    for shift in (1 << i for i in range((len(places) - 1).bit_length())):
        behind = np.expand_dims(places >= shift, [i for i in range(kept[0].ndim) if i != self.axis])
        earlier = _tensors(self, [np.roll(x, shift, self.axis) for x in kept], inputs)
        composed = self.combine_fn.fn(*earlier, *_tensors(self, kept, inputs))
        kept = [np.where(behind, x.handle.data, y) for x, y in zip(composed, kept, strict=True)]
    return _tensors(self, kept, inputs)


def reduce_by_pairs(self, inputs):
    """`reduce` as a tree of neighbours on whole slices; the interpreter's visits one element after the other, too."""
    kept = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
    while len(kept[0]) > 1:
        pairs = ([x[i::2] for x in kept] for i in (0, 1))
        composed = self.combine_fn.fn(*(tensor for data in pairs for tensor in _tensors(self, data, inputs)))
        kept = [x.handle.data for x in (composed if isinstance(composed, tuple) else (composed,))]
    data = [np.expand_dims(x[0], self.axis) if self.keep_dims else x[0] for x in kept]
    return _tensors(self, data, inputs)


def _round_to_nearest(convert):
    def converted(x, from_, to, rounding):
        if (from_, to) != (tl.float32, tl.bfloat16):
            return convert(x, from_, to, rounding)
        bits = np.ascontiguousarray(x).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        quiet = (bits >> 16) | 0x40
        return np.where(np.isnan(bits.view(np.float32)), quiet, rounded).astype(np.uint16)

    return converted


def _fused(self, x, y, z):
    if x.data.dtype != np.float32:
        return interpreter.TensorHandle(x.data * y.data + z.data, z.dtype.scalar)
    exact = x.data.astype(np.float64) * y.data + z.data
    return interpreter.TensorHandle(exact.astype(np.float32), z.dtype.scalar)


def _with_index(patch):
    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, '__index__', lambda self: self.handle.data.item())

    return patched


def install() -> None:
    """Replace the interpreter's functions by these for the rest of the process."""
    interpreter.ScanOps.generic_scan = scan_by_doubling
    interpreter.ReduceOps.generic_reduce = reduce_by_pairs
    interpreter._convert_float = _round_to_nearest(interpreter._convert_float)
    interpreter.InterpreterBuilder.create_fma = _fused
    interpreter._patch_lang_tensor = _with_index(interpreter._patch_lang_tensor)
