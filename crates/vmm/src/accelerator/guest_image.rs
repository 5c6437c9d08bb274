//! The test guest of stage 1: two MiB of memory with page tables, code and a progress counter.
//!
//! ```text
//! 0x01000  page map level 4 ─► 0x02000 pointers ─► 0x03000 directory: one 2 MiB page, identity mapped
//! 0x04000  code              0x05000  rounds that remain (u32), written every 4096 rounds
//! 0x06000  empty descriptor table             stack: down from 0x07000
//! 0x10000  buffer that the rounds work on     0x20000  buffer that it is copied to
//! ```
//!
//! The memory is a file, so that the parent can read how far a guest came that had to be killed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Size of the guest's memory in bytes, and of the one page that its tables map.
pub(super) const MEMORY_BYTES: u64 = 2 << 20;

/// Where the top page table is (the guest's CR3).
pub(super) const PAGE_TABLES: u64 = 0x1000;

/// Where the code starts.
pub(super) const CODE: u64 = 0x4000;

/// Where the number of remaining rounds is, a little-endian `u32`.
pub(super) const PROGRESS: u64 = 0x5000;

/// The port that the guest writes [`DONE`] to at its end.
pub(super) const DONE_PORT: u16 = 0xf4;

/// What the guest writes at its end.
pub(super) const DONE: u8 = 0x4b;

/// Rounds of the guest's loop.
const ROUNDS: u32 = 0x80000;

/// Instructions in a round that meets none of the rare branches.
const INSTRUCTIONS_PER_ROUND: u64 = 9;

/// Instructions that the whole guest executes, rare branches (under a percent) left out.
pub(super) const INSTRUCTIONS: u64 = ROUNDS as u64 * INSTRUCTIONS_PER_ROUND;

/// Instructions executed when `remaining` rounds are left.
pub(super) fn executed(remaining: u32) -> u64 {
    u64::from(ROUNDS.saturating_sub(remaining)) * INSTRUCTIONS_PER_ROUND
}

/// The guest's program. It runs in kernel mode throughout and does, beside plain work on registers and memory, what
/// a kernel does in its first moments: load a descriptor table, write control registers, flush pages, ask for the
/// CPU's features, read and write EFER, move itself with a string instruction.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0xbc, 0x00, 0x70, 0x00, 0x00,                   //         mov    $0x7000, %esp
    0xbb, 0x00, 0x00, 0x08, 0x00,                   //         mov    $ROUNDS, %ebx
    0x31, 0xc0,                                     //         xor    %eax, %eax
    0xbe, 0x00, 0x50, 0x00, 0x00,                   //         mov    $PROGRESS, %esi
    0xbf, 0x00, 0x00, 0x01, 0x00,                   //         mov    $0x10000, %edi
    0x0f, 0x01, 0x14, 0x25, 0x00, 0x60, 0x00, 0x00, //         lgdt   0x6000
    0x48, 0x8d, 0x04, 0x18,                         // round:  lea    (%rax,%rbx), %rax
    0x89, 0xda,                                     //         mov    %ebx, %edx
    0x81, 0xe2, 0xf8, 0x0f, 0x00, 0x00,             //         and    $0xff8, %edx
    0x48, 0x89, 0x04, 0x17,                         //         mov    %rax, (%rdi,%rdx)
    0x48, 0x03, 0x04, 0x17,                         //         add    (%rdi,%rdx), %rax
    0xf7, 0xc3, 0xff, 0x0f, 0x00, 0x00,             //         test   $0xfff, %ebx
    0x75, 0x47,                                     //         jnz    next
    0x89, 0x1e,                                     //         mov    %ebx, (%rsi)
    0x41, 0x0f, 0x20, 0xc0, 0x41, 0x0f, 0x22, 0xc0, //         mov    %cr0, %r8; mov %r8, %cr0
    0x41, 0x0f, 0x20, 0xd8, 0x41, 0x0f, 0x22, 0xd8, //         mov    %cr3, %r8; mov %r8, %cr3
    0x0f, 0x01, 0x3f,                               //         invlpg (%rdi)
    0x9c, 0xfa, 0x9d,                               //         pushfq; cli; popfq
    0xf7, 0xc3, 0xff, 0xff, 0x01, 0x00,             //         test   $0x1ffff, %ebx
    0x75, 0x27,                                     //         jnz    next
    0x50, 0x53, 0x57, 0x56,                         //         push   %rax, %rbx, %rdi, %rsi
    0x31, 0xc0, 0x0f, 0xa2,                         //         xor    %eax, %eax; cpuid
    0xb9, 0x80, 0x00, 0x00, 0xc0,                   //         mov    $EFER, %ecx
    0x0f, 0x32, 0x0f, 0x30,                         //         rdmsr; wrmsr
    0xbe, 0x00, 0x00, 0x01, 0x00,                   //         mov    $0x10000, %esi
    0xbf, 0x00, 0x00, 0x02, 0x00,                   //         mov    $0x20000, %edi
    0xb9, 0x00, 0x10, 0x00, 0x00,                   //         mov    $0x1000, %ecx
    0xf3, 0x48, 0xa5,                               //         rep movsq
    0x5e, 0x5f, 0x5b, 0x58,                         //         pop    %rsi, %rdi, %rbx, %rax
    0xff, 0xcb,                                     // next:   dec    %ebx
    0x75, 0x99,                                     //         jnz    round
    0x89, 0x1e,                                     //         mov    %ebx, (%rsi)
    0xb0, DONE,                                     //         mov    $DONE, %al
    0xe6, DONE_PORT as u8,                          //         out    %al, $DONE_PORT
    0xf4,                                           //         hlt
];

/// Present and writable; the bits of a page table's entry (Intel SDM volume 3, 4.5).
const TABLE_ENTRY: u64 = 0b11;

/// Present, writable, and a 2 MiB page itself.
const LARGE_PAGE_ENTRY: u64 = 0x83;

/// The guest's memory, ready to run, as a file in memory that nothing else knows.
pub(super) fn memory() -> io::Result<File> {
    let memory = super::child::memory_file("kvm-test-guest")?;
    memory.set_len(MEMORY_BYTES)?;
    memory.write_all_at(&((PAGE_TABLES + 0x1000) | TABLE_ENTRY).to_le_bytes(), PAGE_TABLES)?;
    memory.write_all_at(&((PAGE_TABLES + 0x2000) | TABLE_ENTRY).to_le_bytes(), PAGE_TABLES + 0x1000)?;
    memory.write_all_at(&LARGE_PAGE_ENTRY.to_le_bytes(), PAGE_TABLES + 0x2000)?;
    memory.write_all_at(PROGRAM, CODE)?;
    memory.write_all_at(&ROUNDS.to_le_bytes(), PROGRESS)?;
    Ok(memory)
}
