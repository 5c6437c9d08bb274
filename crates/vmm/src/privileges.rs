//! Capabilities given up for good, capabilities(7).

use std::io;

pub use rustix::thread::CapabilitySet as Capabilities;
use rustix::thread::CapabilitySets;

/// Takes all capabilities but `kept` out of the bounding set of the calling thread; a user without the right to do so has
/// none to lose. Nothing that is executed later gets one of them back.
///
/// # Errors
/// What the kernel says.
pub fn limit(kept: Capabilities) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    if !rustix::thread::capabilities(None)?.effective.contains(Capabilities::SETPCAP) {
        return Ok(());
    }
    for number in 0..u64::BITS {
        let capability = Capabilities::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Gives up all capabilities of the calling thread but those of `kept` that it has. Threads that it makes later have no
/// more.
///
/// # Errors
/// What the kernel says.
pub fn keep(kept: Capabilities) -> io::Result<()> {
    let kept = rustix::thread::capabilities(None)?.permitted & kept;
    let inheritable = Capabilities::empty();
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable },
    )?)
}
