//! Running the test guest under KVM, in a process of its own.
//!
//! JUSTIFICATION for unsafe code: KVM is given a range of this process's memory by address,
//! and neither mapping that memory nor handing it over has a safe interface. Everything else goes through the safe
//! calls of kvm-ioctls.

use std::fs::File;
use std::time::Instant;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::guest_image::{CODE, DONE, DONE_PORT, MEMORY_BYTES, PAGE_TABLES};
use super::helper::GuestOutcome;

/// Intel's CPUs without unrestricted guest mode want three pages of guest address space for themselves; this is
/// where QEMU puts them too (KVM API documentation, 4.14 KVM_SET_TSS_ADDR).
const TASK_STATE_ADDRESS: usize = 0xfffb_d000;

/// Exits that are nothing (a signal, say) before the guest counts as stuck.
const MAXIMUM_EXITS: usize = 1000;

/// Runs the guest whose memory is in `memory` and says what became of it. It may never return: the caller is to be
/// killed from outside then.
pub(super) fn run(memory: &File) -> GuestOutcome {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return GuestOutcome::CannotOpen { errno: error.errno() },
    };
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        let how = format!("it speaks version {version} of its interface, not {KVM_API_VERSION}");
        return GuestOutcome::Stopped { how };
    }
    prepare(&kvm, memory).and_then(|(_vm, vcpu)| execute(vcpu)).unwrap_or_else(|failure| failure)
}

/// What failed, as an outcome.
fn failed(doing: &str) -> impl FnOnce(kvm_ioctls::Error) -> GuestOutcome {
    move |error| GuestOutcome::Failed { doing: doing.to_owned(), errno: error.errno() }
}

fn prepare(kvm: &Kvm, memory: &File) -> Result<(VmFd, VcpuFd), GuestOutcome> {
    let vm = kvm.create_vm().map_err(failed("create a virtual machine"))?;
    vm.set_tss_address(TASK_STATE_ADDRESS).map_err(failed("place the task state segment"))?;
    map_memory(&vm, memory)?;
    let vcpu = vm.create_vcpu(0).map_err(failed("create a virtual CPU"))?;
    let cpuid: CpuId =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(failed("name the CPU features it offers"))?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("give the virtual CPU its features"))?;
    enter_long_mode(&vcpu)?;
    Ok((vm, vcpu))
}

fn map_memory(vm: &VmFd, memory: &File) -> Result<(), GuestOutcome> {
    // Beyond the file's end the mapping would fault; the file is made by the parent with this very length.
    if memory.metadata().map(|metadata| metadata.len()).ok() != Some(MEMORY_BYTES) {
        return Err(GuestOutcome::Stopped { how: "its memory has the wrong size".to_owned() });
    }
    // SAFETY: the kernel chooses the address (the hint is null), so no mapping that exists is replaced; no Rust
    // reference into the mapping is ever made, and the file keeps its length: only our parent has it too, and it
    // only reads. The mapping is left until the process ends, so it outlives the machine that uses it.
    let address = unsafe {
        mmap(
            std::ptr::null_mut(),
            MEMORY_BYTES as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            memory,
            0,
        )
    }
    .map_err(|error| GuestOutcome::Failed {
        doing: "map the guest's memory".to_owned(),
        errno: error.raw_os_error(),
    })?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES,
        userspace_addr: address as u64,
    };
    // SAFETY: the region is exactly the mapping made above, which stays until the process ends, is used by nothing
    // else in this process, and is the only region of this machine.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("take the guest's memory"))
}

/// Puts the CPU where a boot loader leaves it for a 64-bit kernel: long mode with paging, flat segments, interrupts
/// off. Bits: Intel SDM volume 3, 2.2.1 (EFER) and 2.5 (control registers).
fn enter_long_mode(vcpu: &VcpuFd) -> Result<(), GuestOutcome> {
    const CR0_PROTECTION_MONITOR_EXTENSION_NUMERIC_WRITE_PROTECT_PAGING: u64 = 0x8001_0033;
    const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
    const EFER_LONG_MODE_ENABLE_AND_ACTIVE: u64 = (1 << 8) | (1 << 10);
    let mut special = vcpu.get_sregs().map_err(failed("read the virtual CPU's state"))?;
    let code = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: 0x08,
        type_: 0b1011, // code, readable, accessed
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: 0x10, type_: 0b0011, db: 1, l: 0, ..code };
    special.cs = code;
    (special.ds, special.es, special.ss, special.fs, special.gs) = (data, data, data, data, data);
    special.cr0 = CR0_PROTECTION_MONITOR_EXTENSION_NUMERIC_WRITE_PROTECT_PAGING;
    special.cr3 = PAGE_TABLES;
    special.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    special.efer = EFER_LONG_MODE_ENABLE_AND_ACTIVE;
    vcpu.set_sregs(&special).map_err(failed("enter 64-bit mode"))?;
    let mut registers = vcpu.get_regs().map_err(failed("read the virtual CPU's registers"))?;
    registers.rip = CODE;
    registers.rflags = 1 << 1; // the bit that is always set
    vcpu.set_regs(&registers).map_err(failed("set the virtual CPU's registers"))
}

fn execute(mut vcpu: VcpuFd) -> Result<GuestOutcome, GuestOutcome> {
    let started = Instant::now();
    for _ in 0..MAXIMUM_EXITS {
        let how = match vcpu.run() {
            Ok(VcpuExit::IoOut(DONE_PORT, [DONE])) => {
                let microseconds = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                return Ok(GuestOutcome::Ran { microseconds });
            }
            Ok(VcpuExit::Intr) => continue,
            Ok(VcpuExit::Shutdown) => "the guest's CPU shut down (triple fault)".to_owned(),
            Ok(VcpuExit::FailEntry(reason, _)) => format!("the CPU refused to enter it (reason {reason:#x})"),
            Ok(VcpuExit::InternalError) => {
                "KVM reports an internal error (an instruction it cannot emulate)".to_owned()
            }
            Ok(other) => format!("unexpected exit {other:?}"),
            Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => continue,
            Err(error) => return Err(failed("run the virtual CPU")(error)),
        };
        return Ok(GuestOutcome::Stopped { how });
    }
    Ok(GuestOutcome::Stopped { how: format!("{MAXIMUM_EXITS} interruptions without progress") })
}
