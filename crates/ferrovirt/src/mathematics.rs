//! The one function of the C library's mathematics that the program needs.
//!
//! Progress bars raise a number to a power to tell how fast a pull goes. The C library keeps that in a library of its own,
//! and loading it takes 0.5 MiB of every process of ours (2026-11), a server's too.
//!
//! JUSTIFICATION for unsafe code: a function that others find by its name has an attribute that counts as unsafe, since
//! two of a name are no good. This one is C's `pow`, with its arguments and its result, in place of C's.

/// `base` to the power of `exponent`.
#[unsafe(no_mangle)]
extern "C" fn pow(base: f64, exponent: f64) -> f64 {
    libm::pow(base, exponent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::hint::black_box;

    #[test]
    #[allow(clippy::float_cmp)]
    fn powers_are_ours() {
        for (base, exponent, power) in [(2.0, 10.0, 1024.0), (0.25, 0.5, 0.5), (0.0, 0.0, 1.0)] {
            assert_eq!(black_box::<f64>(base).powf(black_box(exponent)), power);
        }
        let loaded = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!loaded.contains("/libm.so"), "something else needs the C library's mathematics:\n{loaded}");
    }
}
