//! Stage 2: QEMU itself, with the machine, the accelerator and the CPU model to be used, and the smallest guest.
//!
//! KVM may work and QEMU still not: a CPU model may name registers that the host refuses to set, on which QEMU
//! aborts. The guest is a kernel of nine bytes that QEMU loads as it loads a real one; it tells its success through
//! the `isa-debug-exit` device, which turns the byte that it is given into QEMU's exit code.

use std::io::{self, Write};
use std::time::Duration;

use super::child::{self, Ended};
use super::guest_image::{DONE, DONE_PORT};
use super::{KvmUnusable, Obstacle, ProbeRequest};
use crate::process::Role;

/// The exit code that `isa-debug-exit` makes of [`DONE`] (QEMU, hw/misc/debugexit.c: value times two plus one).
const SUCCESS: i32 = (DONE as i32) << 1 | 1;

/// Starts QEMU with `accelerator` and waits for its guest to run.
pub(super) fn start_with(
    request: &ProbeRequest,
    accelerator: &str,
    cpu_limit: Duration,
    wall_limit: Duration,
) -> Result<(), Obstacle> {
    let options = format!("-machine {},accel={accelerator} -cpu {}", request.machine, request.cpu_model);
    let failed = |error: io::Error| Obstacle::cannot(&format!("try `{}`", request.qemu.display()), &error);
    let mut kernel = child::memory_file("kvm-test-kernel").map_err(failed)?;
    kernel.write_all(&tiny_kernel()).map_err(failed)?;
    let machine = format!("{},accel={accelerator}", request.machine);
    let exit_device = format!("isa-debug-exit,iobase={DONE_PORT:#x},iosize=0x04");
    #[rustfmt::skip]
    let arguments = [
        "-machine", &machine, "-cpu", &request.cpu_model, "-m", "32M", "-display", "none",
        "-nodefaults", "-no-user-config", "-no-reboot", "-kernel", "/dev/stdin", "-device", &exit_device,
    ]
    .map(str::to_owned);
    let mut command = request.trampoline.command(&Role::of(&request.run_as), &request.qemu, &arguments);
    let (ended, output) = child::run(&mut command, kernel, cpu_limit, wall_limit).map_err(failed)?;
    let said = || output.stderr_tail().unwrap_or_else(|| "it said nothing".to_owned());
    match ended {
        Ended::Exited(status) if status.code() == Some(SUCCESS) => Ok(()),
        Ended::Exited(status) => Err(Obstacle::Lasting(KvmUnusable::with_hint(
            format!("KVM runs a guest, but QEMU with `{options}` failed ({status}): {}", said()),
            "another CPU model may work, and so may a newer QEMU",
        ))),
        Ended::OutOfTime { cpu, elapsed } => Err(Obstacle::Passing(KvmUnusable::new(format!(
            "KVM runs a guest, but QEMU with `{options}` did not run one in {} ms of CPU time ({} ms in all): {}",
            cpu.as_millis(),
            elapsed.as_millis(),
            said()
        )))),
    }
}

/// Where the kernel is loaded, as Linux is: at 1 MiB.
const LOAD_ADDRESS: u64 = 0x10_0000;

/// Type of the ELF note that names the 32-bit entry point (Xen, public/elfnote.h: XEN_ELFNOTE_PHYS32_ENTRY).
const ENTRY_NOTE: u32 = 18;

/// An ELF kernel that is entered in 32-bit protected mode and writes [`DONE`] to [`DONE_PORT`].
fn tiny_kernel() -> Vec<u8> {
    #[rustfmt::skip]
    const CODE: [u8; 9] = [
        0xb0, DONE,            // mov $DONE, %al
        0xe6, DONE_PORT as u8, // out %al, $DONE_PORT
        0xfa,                  // cli
        0xf4, 0xeb, 0xfd,      // hlt, again and again
        0x90,                  // nop
    ];
    const HEADERS: u64 = 64 + 2 * 56;
    const NOTE: u64 = 24; // three words, `Xen\0`, the address
    let mut file = Vec::new();
    // ELF header: 64-bit, little-endian, executable, x86-64, two program headers, no sections.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([LOAD_ADDRESS + HEADERS + NOTE, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let length = HEADERS + NOTE + CODE.len() as u64;
    // What to load (type 1), readable and executable: this whole file.
    file.extend([1u32, 5].iter().flat_map(|word| word.to_le_bytes()));
    let place = [0, LOAD_ADDRESS, LOAD_ADDRESS, length, length, 0x1000];
    file.extend(place.iter().flat_map(|word| word.to_le_bytes()));
    // Where the note is (type 4).
    file.extend([4u32, 4].iter().flat_map(|word| word.to_le_bytes()));
    let place = [HEADERS, LOAD_ADDRESS + HEADERS, LOAD_ADDRESS + HEADERS, NOTE, NOTE, 4];
    file.extend(place.iter().flat_map(|word| word.to_le_bytes()));
    file.extend([4u32, 8, ENTRY_NOTE].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(b"Xen\0");
    file.extend((LOAD_ADDRESS + HEADERS + NOTE).to_le_bytes());
    file.extend(CODE);
    file
}
