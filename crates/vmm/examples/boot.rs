//! Boots a kernel with nothing but this crate: `cargo run -p vmm --example boot -- KERNEL [INITRD
//! [ARGUMENTS]]`. The guest's console is standard output; QEMU's process id and the events go to standard
//! error.

// A program reads its environment.
#![allow(clippy::disallowed_methods)]

use std::env;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vmm::process::{TRAMPOLINE_COMMAND, Trampoline, trampoline};
use vmm::{
    Accelerator, Access, HostFacts, LaunchSpec, QemuFacts, QemuSearch, RunAsFacts, StartRequest, Vm, VmEvent,
    choose_run_as,
};

type AnyError = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|argument| argument == TRAMPOLINE_COMMAND) {
        trampoline(env::args_os().skip(2));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(AnyError::from).and_then(|runtime| runtime.block_on(boot()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn boot() -> Result<(), AnyError> {
    let mut arguments = env::args_os().skip(1);
    let kernel = arguments.next().ok_or("usage: boot KERNEL [INITRD [ARGUMENTS]]")?;
    let mut spec = LaunchSpec::new("example", std::path::absolute(kernel)?, 512 << 20);
    spec.initrd = arguments.next().map(std::path::absolute).transpose()?;
    spec.command_line = match arguments.next() {
        Some(line) => line.into_string().map_err(|_| "the arguments are not UTF-8")?,
        None => "console=ttyS0".to_owned(),
    };
    let search_path = env::var_os("PATH").unwrap_or_default();
    let qemu = QemuFacts::probe(&QemuSearch { search_path, ..QemuSearch::default() })?;
    let accelerator = Accelerator::Tcg { reason: "the example does not try KVM".to_owned() };
    let run_directory = env::temp_dir().join(format!("vmm-boot-{}", std::process::id()));
    std::fs::create_dir(&run_directory)?;
    let mut needs = vec![(spec.kernel.as_path(), Access::Read), (&run_directory, Access::Traverse)];
    needs.extend(spec.initrd.as_deref().map(|initrd| (initrd, Access::Read)));
    let (run_as, warning) = choose_run_as(&RunAsFacts::gather(&needs)?);
    if let Some(warning) = warning {
        say(&format!("warning: {warning}"));
    }
    let facts = HostFacts::probe(qemu, accelerator, run_as, &Trampoline::this_program())?;
    let result = supervise(&spec, &facts, &run_directory).await;
    std::fs::remove_dir_all(&run_directory)?;
    result
}

async fn supervise(
    spec: &LaunchSpec,
    facts: &HostFacts,
    run_directory: &std::path::Path,
) -> Result<(), AnyError> {
    let trampoline = Trampoline::this_program();
    let request = StartRequest { spec, facts, run_directory, trampoline: &trampoline, niceness: 0 };
    // Dropping the writer would only close the guest's input.
    let (mut vm, mut console, _input) = Vm::start(request).await?;
    say(&format!("process {}", vm.process_id()));
    let mut output = tokio::io::stdout();
    let mut buffer = vec![0; 64 * 1024];
    let mut console_open = true;
    loop {
        tokio::select! {
            length = console.read(&mut buffer), if console_open => {
                let length = length?;
                console_open = length > 0;
                output.write_all(&buffer[..length]).await?;
                output.flush().await?;
            }
            event = vm.next_event() => {
                let Some(event) = event else { return Ok(()) };
                say(&format!("{event:?}"));
                match event {
                    VmEvent::GuestPanicked { .. } => vm.quit().await?,
                    VmEvent::Exited(_) => {
                        // What is still in the pipe.
                        tokio::io::copy(&mut console, &mut output).await?;
                        return Ok(());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn say(text: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}
