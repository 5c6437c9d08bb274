//! The allocator of the whole program.
//!
//! JUSTIFICATION for unsafe code: what is asked of the allocator is asked by calls of its C library, which has no safe
//! interface. These calls take numbers, may come at any time, and do nothing to memory that is in use.

use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::c_long;
use std::time::{Duration, Instant};

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};

/// A server makes and drops trees of JSON in several threads; glibc's allocator took 30 % of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The option `purge_delay`: how long memory that was freed stays with the process, in milliseconds. Its place in the
/// `mi_option_t` of mimalloc.h, which the bindings do not name.
const PURGE_DELAY: mi_option_t = 15;

/// Its value while a server serves; it begins with none. Memory that is freed and used again at once is mapped anew
/// otherwise: unmapping alone took 5.5 % of the processor time of a server that creates machines (2026-11). But what
/// starting up leaves behind would stay for good, in pages of which little is used.
const SERVING_PURGE_DELAY_MS: c_long = 100;

/// How often memory is looked for that is used no more. A look takes some microseconds.
const COLLECT_EVERY: Duration = Duration::from_millis(500);

/// Has memory given back to the kernel as soon as it is freed.
pub fn give_back_at_once() {
    set_purge_delay(0);
}

fn set_purge_delay(milliseconds: c_long) {
    // SAFETY: a call of C with two numbers; an option that is not there is ignored.
    unsafe { mi_option_set(PURGE_DELAY, milliseconds) }
}

/// For a thread that has nothing to do: lets go of the pages that it keeps for what it may need next.
pub fn collect() {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if LAST.get().is_none_or(|last| last.elapsed() >= COLLECT_EVERY) {
        LAST.set(Some(Instant::now()));
        collect_now(false);
    }
}

/// For a server, as long as it is polled: has memory given back soon instead of at once when it has started, lets go of
/// what this thread keeps, and gives back what all threads have let go of. Nothing else does so in a process that is idle.
pub async fn keep_collecting() -> Infallible {
    tokio::time::sleep(COLLECT_EVERY).await;
    set_purge_delay(SERVING_PURGE_DELAY_MS);
    loop {
        collect_now(true);
        tokio::time::sleep(COLLECT_EVERY).await;
    }
}

fn collect_now(gives_back: bool) {
    // SAFETY: a call of C with a flag, about the heap of this thread and what is free.
    unsafe { mi_collect(gives_back) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn resident_bytes() -> u64 {
        vmm::proc_bytes(&std::fs::read_to_string("/proc/self/status").unwrap(), "VmRSS").unwrap()
    }

    #[test]
    fn what_is_freed_is_the_kernels() {
        const BYTES: u64 = 64 << 20;
        set_purge_delay(SERVING_PURGE_DELAY_MS);
        let kept = vec![1_u8; BYTES as usize];
        let with_it = resident_bytes();
        drop(std::hint::black_box(kept));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            collect_now(true);
            let without = resident_bytes();
            if without + BYTES / 2 < with_it {
                return;
            }
            assert!(Instant::now() < deadline, "{with_it} bytes before, {without} after");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
