"""Peal's counter-based random numbers (core/base/random.h) and its dropout mask, written a second
time so that the golden tensors do not depend on the code they check."""

import numpy

MASK64 = (1 << 64) - 1


def mix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def words(seed, step, stream, site, index):
    a = mix64(seed ^ mix64(site))
    b = mix64(a ^ mix64(step) ^ mix64(~stream & MASK64))
    counter = [index & 0xFFFFFFFF, index >> 32, b & 0xFFFFFFFF, b >> 32]
    k0, k1 = a & 0xFFFFFFFF, a >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(p1 >> 32) ^ counter[1] ^ k0, p1 & 0xFFFFFFFF,
                   (p0 >> 32) ^ counter[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return counter


def dropout_mask(count, p, seed, step, stream, site):
    """1 / (1 - p) where an element is kept, else 0."""
    draws = [words(seed, step, stream, site, i // 4)[i % 4] >> 8 for i in range(count)]
    threshold = float(numpy.float32(p))
    return numpy.array([1 / (1 - p) if draw / 2**24 >= threshold else 0.0 for draw in draws])
