//! From a VirtualMachineInstance and the files of its boot image to a running guest and a verdict about it.
//!
//! ```text
//! VMI + boot files ──► plan ──► vmm::LaunchSpec ──► vmm::Vm ──► session ──► Outcome
//!       boot_files: may QEMU read them?                           │ console: lines, findings, timeline
//!       command_line: is there a console?                         └ verdict: what the guest came to
//! ```
//!
//! `plan`, `boot_files`, `command_line`, `console` and `timeline` are pure. Only `session` talks to a VM.
//!
//! A launcher is all of that in a process of its own, for one Pod:
//!
//! ```text
//! Pod's directory ──► supervisor ◄──► control (HTTP over mutual TLS) ◄── controllers
//!  (volumes, tls)      │  boot_image, host, plan ──► session ──► logs (cri_log), serial_port
//!                      │               network: the guest's card ◄──► DHCP, port-forward, the way outside
//!                      │               guest_agent: what an agent in the guest says of it; agent_report: what it measures
//!                      │               guest_memory: what its balloon says of its memory
//!                      │               probe: does the guest answer?
//!                      └► launcher.json, launch.json, exit_record
//! ```

pub mod agent_report;
pub mod boot_files;
pub mod boot_image;
pub mod cgroup;
pub mod command_line;
pub mod console;
pub mod console_log;
pub mod control;
pub mod cri_log;
mod display;
pub mod exit_record;
mod guest_agent;
pub mod guest_memory;
pub mod host;
pub mod machine_dir;
pub mod memory;
pub mod network;
pub mod plan;
pub mod pod_dir;
pub mod privileges;
pub mod probe;
mod qemu_socket;
pub mod serial_port;
pub mod session;
pub mod supervisor;
pub mod timeline;
