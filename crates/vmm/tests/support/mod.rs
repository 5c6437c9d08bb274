//! A guest of some hundred bytes, and what the tests of running machines share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use vmm::process::Trampoline;
use vmm::{
    Accelerator, ConsoleReader, ConsoleWriter, HostFacts, LaunchSpec, QemuFacts, QemuSearch, RunAs,
    StartError, StartRequest, Vm, VmEvent,
};

/// Longest wait for anything. Reached only when a test fails.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What the guest says when it starts.
pub const GREETING: &str = "hello from the guest\n";

/// A multiboot kernel (Multiboot specification 0.6.96) that greets on the first serial port, then obeys the
/// bytes it reads there: `q` powers off, `p` panics, `r` resets, `w` starts the watchdog and neglects it, all others are
/// echoed.
pub fn tiny_guest() -> Vec<u8> {
    const LOAD_ADDRESS: u32 = 0x10_0000;
    const ELF_HEADER: usize = 52;
    const PROGRAM_HEADER: usize = 32;
    const MULTIBOOT_HEADER: usize = 12;
    const MULTIBOOT_MAGIC: u32 = 0x1bad_b002;

    let code = tiny_code();
    let code_offset = ELF_HEADER + PROGRAM_HEADER + MULTIBOOT_HEADER;
    let size = u32::try_from(code_offset + code.len()).unwrap();
    let entry = LOAD_ADDRESS + u32::try_from(code_offset).unwrap();

    let mut elf = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    half(&mut elf, 2); // executable
    half(&mut elf, 3); // 80386
    word(&mut elf, 1);
    word(&mut elf, entry);
    word(&mut elf, ELF_HEADER as u32); // program headers follow
    word(&mut elf, 0);
    word(&mut elf, 0);
    half(&mut elf, ELF_HEADER as u16);
    half(&mut elf, PROGRAM_HEADER as u16);
    half(&mut elf, 1);
    for _ in 0..3 {
        half(&mut elf, 0); // no sections
    }
    // One segment: the whole file.
    for value in [1, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 7, 4] {
        word(&mut elf, value);
    }
    word(&mut elf, MULTIBOOT_MAGIC);
    word(&mut elf, 0);
    word(&mut elf, 0u32.wrapping_sub(MULTIBOOT_MAGIC));
    elf.extend(code);
    elf
}

/// 32-bit code. Jumps are short, so everything after the greeting fits into 127 bytes.
fn tiny_code() -> Vec<u8> {
    const WAIT_UNTIL_WRITABLE: [u8; 9] = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb];
    const WAIT_UNTIL_READABLE: [u8; 9] = [0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb];
    const DATA_PORT: [u8; 4] = [0x66, 0xba, 0xf8, 0x03];
    let mut code = Vec::new();
    for byte in GREETING.bytes() {
        code.extend(WAIT_UNTIL_WRITABLE);
        code.extend(DATA_PORT);
        code.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    // q: the ACPI sleep register of ICH9 at 0x604 gets SLP_EN. p: pvpanic at 0x505. r: the reset register
    // 0xcf9.
    // w: an i6300ESB at PCI address 00:01.0 counts in microseconds instead of milliseconds (register 0x60, bit 2) and is
    // enabled (0x68, bit 1), by way of 0xcf8 and 0xcfc; it bites after two seconds (QEMU, `hw/watchdog/wdt_i6300esb.c`).
    let actions: [(u8, &[u8]); 4] = [
        (b'q', &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, 0xf4]),
        (b'p', &[0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xf4]),
        (b'r', &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4]),
        (
            b'w',
            &[
                0x66, 0xba, 0xf8, 0x0c, // mov dx, 0xcf8
                0xb8, 0x60, 0x08, 0x00, 0x80, 0xef, // mov eax, 0x80000860; out dx, eax
                0xb2, 0xfc, 0xb8, 0x04, 0x00, 0x00, 0x00, 0x66,
                0xef, // mov dl, 0xfc; mov eax, 4; out dx, ax
                0xb2, 0xf8, 0xb8, 0x68, 0x08, 0x00, 0x80,
                0xef, // mov dl, 0xf8; mov eax, 0x80000868; out dx, eax
                0xb2, 0xfc, 0xb0, 0x02, 0xee, 0xf4, // mov dl, 0xfc; mov al, 2; out dx, al; hlt
            ],
        ),
    ];
    let next = code.len();
    code.extend(WAIT_UNTIL_READABLE);
    code.extend(DATA_PORT);
    code.push(0xec); // in al, dx
    for (key, action) in actions {
        // cmp al, key; jne over the action
        code.extend([0x3c, key, 0x75, u8::try_from(action.len()).unwrap()]);
        code.extend(action);
    }
    code.push(0xee); // echo
    let back = i8::try_from(next as i64 - (code.len() as i64 + 2)).unwrap();
    code.extend([0xeb, back.to_le_bytes()[0]]);
    code
}

/// A machine to be started, with its own directory.
pub struct Bench {
    pub directory: TempDir,
    pub spec: LaunchSpec,
    pub facts: HostFacts,
    pub niceness: u8,
}

impl Bench {
    /// The tiny guest with 64 MiB.
    pub fn new() -> Self {
        Self::inside("run")
    }

    /// With a run directory of this name.
    pub fn inside(name: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("vmm-").tempdir().unwrap();
        let bench =
            Self { spec: LaunchSpec::new("tiny", "", 64 << 20), facts: facts(), directory, niceness: 0 };
        let run_directory = bench.directory.path().join(name);
        std::fs::create_dir(&run_directory).unwrap();
        let kernel = run_directory.join("kernel");
        std::fs::write(&kernel, tiny_guest()).unwrap();
        Self { spec: LaunchSpec { kernel, ..bench.spec }, ..bench }
    }

    pub fn run_directory(&self) -> &Path {
        self.spec.kernel.parent().unwrap()
    }

    pub async fn start(&self) -> Result<Running, StartError> {
        let request = StartRequest {
            spec: &self.spec,
            facts: &self.facts,
            run_directory: self.run_directory(),
            trampoline: &Trampoline::program(boot_example()),
            niceness: self.niceness,
        };
        let (vm, console, input) = timeout(LIMIT, Vm::start(request)).await.unwrap()?;
        Ok(Running { vm, console, input })
    }
}

/// A started machine. Dropping it kills QEMU.
pub struct Running {
    pub vm: Vm,
    pub console: ConsoleReader,
    pub input: ConsoleWriter,
}

impl Running {
    /// Reads the console until the text has come.
    pub async fn expect(&mut self, text: &str) {
        let mut seen = Vec::new();
        let found = async {
            while !seen.ends_with(text.as_bytes()) {
                seen.push(self.console.read_u8().await.unwrap());
            }
        };
        let found = timeout(LIMIT, found).await;
        assert!(found.is_ok(), "`{text}` did not come, but `{}`", String::from_utf8_lossy(&seen));
    }

    pub async fn event(&mut self) -> Option<VmEvent> {
        timeout(LIMIT, self.vm.next_event()).await.unwrap()
    }

    /// The next event that is not one of QEMU's many others.
    pub async fn notable_event(&mut self) -> VmEvent {
        loop {
            match self.event().await.unwrap() {
                VmEvent::Other { .. } => {}
                event => return event,
            }
        }
    }
}

/// This host, without KVM.
pub fn facts() -> HostFacts {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let qemu = QemuFacts::probe(&QemuSearch { search_path, ..QemuSearch::default() }).unwrap();
    let accelerator = Accelerator::Tcg { reason: "tests".to_owned() };
    HostFacts::probe(qemu, accelerator, RunAs::Caller, &Trampoline::program(boot_example())).unwrap()
}

/// The example beside the test, which cargo builds together with it; it is also a trampoline.
pub fn boot_example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let file = test.parent().and_then(Path::parent).unwrap().join("examples/boot");
    assert!(file.is_file(), "{} is missing: build with `--examples`", file.display());
    file
}
