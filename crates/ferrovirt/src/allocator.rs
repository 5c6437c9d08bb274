//! The allocator of the whole program.
//!
//! JUSTIFICATION for unsafe code: what is asked of the allocator is asked by calls of its C library, which has no safe
//! interface. These calls take numbers, may come at any time, and do nothing to memory that is in use.

use std::cell::Cell;
use std::time::{Duration, Instant};

use libmimalloc_sys::{mi_collect, mi_option_set_default, mi_option_t};

/// A server makes and drops trees of JSON in several threads; glibc's allocator took 30 % of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The option `purge_delay`: how long memory that was freed stays with the process, in milliseconds. Its place in the
/// `mi_option_t` of mimalloc.h, which the bindings do not name.
const PURGE_DELAY: mi_option_t = 15;

/// Has memory given back to the kernel as soon as it is freed, unless `MIMALLOC_PURGE_DELAY` says otherwise. Freed memory
/// is looked at only when more is asked for or freed: what an idle process keeps for a second it keeps until it is busy again.
pub fn give_back_at_once() {
    // SAFETY: a call of C with two numbers; an option that is not there is ignored.
    unsafe { mi_option_set_default(PURGE_DELAY, 0) }
}

/// How often a thread looks for memory that it uses no more. A look takes some microseconds.
const COLLECT_EVERY: Duration = Duration::from_millis(100);

/// For a thread that has nothing to do: lets go of the pages that it keeps for what it may need next.
pub fn collect() {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if LAST.get().is_none_or(|last| last.elapsed() >= COLLECT_EVERY) {
        LAST.set(Some(Instant::now()));
        // SAFETY: a call of C with a flag, about the heap of this thread.
        unsafe { mi_collect(false) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn resident_bytes() -> u64 {
        vmm::proc_bytes(&std::fs::read_to_string("/proc/self/status").unwrap(), "VmRSS").unwrap()
    }

    #[test]
    fn what_is_freed_is_the_kernels_at_once() {
        const BYTES: usize = 64 << 20;
        give_back_at_once();
        let kept = vec![1_u8; BYTES];
        let with_it = resident_bytes();
        drop(std::hint::black_box(kept));
        let without = resident_bytes();
        assert!(without + BYTES as u64 / 2 < with_it, "{with_it} bytes before, {without} after");
    }
}
