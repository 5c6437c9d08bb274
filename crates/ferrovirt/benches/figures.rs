//! The figures that the project promises, measured against the same work done by other programs.
//!
//! Every pair is measured in turns in one run (ours, theirs, ours, theirs, ...), so that a slow minute of the machine
//! hits both; what is compared are medians. The table goes to standard output, the samples to
//! `target/bench/results.json`, and the exit code says whether every limit is kept.
//!
//! `cargo bench --bench figures -- WORD` measures only the figures whose name holds the word.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../tests/e2e/harness.rs"]
mod harness;
#[path = "../../image/tests/support/real_registry.rs"]
mod real_registry;
#[allow(dead_code, reason = "other benches use the rest")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image::digest::{Algorithm, Hasher};

use harness::{Fixtures, Session, World, manifest};
use real_registry::{RealRegistry, Tools};
use support::{Figure, Pairs, finish};

/// Pairs that are measured of each figure.
const ROUNDS: usize = 7;

/// After this everything is given up: several times what the whole takes on a slow machine.
const WATCHDOG: Duration = Duration::from_secs(45 * 60);

const KERNEL: &str = "/boot/vmlinuz-virt";
const INITRD: &str = "/boot/initramfs-virt";
const MB: u64 = 1_000_000;

/// Runs `command` to its end, which must be a success, and returns how long that took in seconds.
fn timed(mut command: Command) -> f64 {
    command.stdin(Stdio::null());
    let started = Instant::now();
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let took = started.elapsed().as_secs_f64();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    took
}

/// A xorshift generator's output, which no compressor makes smaller; the same each time for a seed.
struct Noise {
    state: u64,
    left: u64,
}

impl Noise {
    fn new(bytes: u64, seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, left: bytes }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for piece in buffer[..length].chunks_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            piece.copy_from_slice(&self.state.to_le_bytes()[..piece.len()]);
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// A file of a layer.
struct LayerFile {
    path: String,
    content: Content,
}

enum Content {
    Noise { megabytes: u64, seed: u64 },
    File(PathBuf),
}

/// Writes a gzip layer of `files` into `path`; returns the digest of the archive before compression.
fn write_layer(path: &Path, files: &[LayerFile]) -> String {
    // Noise is stored rather than deflated whatever the level, and it is most of what is written here.
    let encoder = flate2::write::GzEncoder::new(fs::File::create(path).unwrap(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(Hashed { inner: encoder, hasher: Hasher::new(Algorithm::Sha256) });
    for LayerFile { path, content } in files {
        let (size, mut bytes): (u64, Box<dyn Read>) = match content {
            Content::Noise { megabytes, seed } => {
                (megabytes * MB, Box::new(Noise::new(megabytes * MB, *seed)))
            }
            Content::File(source) => {
                let file = fs::File::open(source).unwrap();
                (file.metadata().unwrap().len(), Box::new(file))
            }
        };
        let mut header = tar::Header::new_ustar();
        header.set_path(path.trim_start_matches('/')).unwrap();
        header.set_mode(0o644);
        header.set_uid(107);
        header.set_gid(107);
        header.set_size(size);
        header.set_cksum();
        builder.append(&header, &mut bytes).unwrap();
    }
    let Hashed { inner, hasher } = builder.into_inner().unwrap();
    inner.finish().unwrap();
    hasher.finish().to_string()
}

/// Hashes what goes through it.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn bulk(name: &str, megabytes: u64, seed: u64) -> LayerFile {
    LayerFile { path: format!("/usr/share/{name}"), content: Content::Noise { megabytes, seed } }
}

fn boot_files() -> Vec<LayerFile> {
    [(KERNEL, "vmlinuz"), (INITRD, "initrd")]
        .map(|(path, source)| LayerFile {
            path: path.to_owned(),
            content: Content::File(Fixtures::path(source)),
        })
        .into()
}

/// An OCI layout under construction, sent to the registry by skopeo.
struct Layout {
    directory: PathBuf,
    layers: Vec<serde_json::Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    fn new(world: &World, name: &str) -> Self {
        let directory = world.path(name);
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        Self { directory, layers: Vec::new(), diff_ids: Vec::new() }
    }

    /// Moves a blob to its place; returns its digest and size.
    fn place(&self, file: &Path) -> (String, u64) {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut input = fs::File::open(file).unwrap();
        let (mut buffer, mut size) = (vec![0; 1 << 20], 0);
        loop {
            let length = input.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            size += length as u64;
        }
        let digest = hasher.finish();
        fs::rename(file, self.directory.join("blobs/sha256").join(digest.hex())).unwrap();
        (digest.to_string(), size)
    }

    fn place_json(&self, value: &serde_json::Value) -> (String, u64) {
        let path = self.directory.join("json.part");
        fs::write(&path, serde_json::to_vec(value).unwrap()).unwrap();
        self.place(&path)
    }

    fn layer(mut self, files: &[LayerFile]) -> Self {
        let path = self.directory.join("layer.part");
        self.diff_ids.push(write_layer(&path, files));
        let (digest, size) = self.place(&path);
        self.layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size,
        }));
        self
    }

    /// Finishes the image, sends it to `reference` and removes the layout.
    fn push(self, tools: &Tools, reference: &str) {
        let (digest, size) = self.place_json(&serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }));
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let (digest, size) = self.place_json(&serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "layers": self.layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size},
        }));
        let index = serde_json::json!({
            "schemaVersion": 2, "manifests": [{"mediaType": media_type, "digest": digest, "size": size}],
        });
        fs::write(self.directory.join("index.json"), index.to_string()).unwrap();
        fs::write(self.directory.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
        let from = format!("oci:{}", self.directory.display());
        tools.skopeo(["copy", "--dest-tls-verify=false", &from, &format!("docker://{reference}")]);
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// Everything that the measurements share.
struct Bench {
    world: World,
    registry: RealRegistry,
    tools: Tools,
}

impl Bench {
    fn reference(&self, name: &str) -> String {
        format!("{}/bench/{name}:1", self.registry.host())
    }

    /// `run` of a cached image, the same argv by hand, and what one would type without Ferrovirt.
    fn boots(&self) -> Vec<Figure> {
        let image = self.reference("boot");
        self.world.build_image(&image, "vmlinuz", &["--push"]);
        let text = manifest("boot", &image, "IfNotPresent", "console=ttyS0").replace("256Mi", "512Mi");
        self.world.file("boot.yaml", text);
        let run = || self.world.command(["run", "-f", "boot.yaml"]);

        let mut dry_run = self.world.command(["run", "-f", "boot.yaml", "--dry-run"]);
        let printed = dry_run.output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let words: Vec<_> = printed.lines().skip_while(|line| !line.contains("qemu-system-x86_64")).collect();
        assert!(!words.is_empty(), "no command line in the dry run:\n{printed}");
        let by_hand = || {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("exec {}", words.join("\n"))]);
            self.world.environment(&mut command);
            command
        };
        let accelerator = if words.iter().any(|word| word.contains("kvm")) { "kvm" } else { "tcg" };
        let plain = || {
            let mut command = Command::new("qemu-system-x86_64");
            command.args(["-M", "q35", "-m", "512", "-nographic", "-accel", accelerator]);
            command
                .arg("-kernel")
                .arg(Fixtures::path("vmlinuz"))
                .arg("-initrd")
                .arg(Fixtures::path("initrd"));
            command.args(["-append", "console=ttyS0"]);
            command
        };
        timed(run()); // fills the page cache and what is cached about the host
        let (mut hand, mut typed) = (Pairs::default(), Pairs::default());
        for _ in 0..ROUNDS {
            let ours = timed(run());
            hand.ours.push(ours);
            typed.ours.push(ours);
            hand.theirs.push(timed(by_hand()));
            typed.theirs.push(timed(plain()));
        }
        vec![
            Figure::ratio("boot: run of a cached image", "same argv by hand", &hand, 1.05),
            Figure::ratio("boot: run of a cached image", "qemu -M q35 -nographic", &typed, 0.95),
        ]
    }

    /// A pull into an empty store against skopeo's copy into an empty directory.
    fn pull(&self, name: &'static str, image: &str, paths: &[&str], limit: f64) -> Figure {
        let mut pairs = Pairs::default();
        let remote = format!("docker://{image}");
        for _ in 0..ROUNDS {
            let mut ours = self.world.command(["image", "pull", image]);
            let store = self.world.path("cold");
            ours.args(paths).arg("--state-dir").arg(&store);
            pairs.ours.push(timed(ours));
            fs::remove_dir_all(&store).unwrap();

            let target = self.world.path("copied");
            let mut theirs = Command::new("skopeo");
            theirs.arg("--policy").arg(self.tools.path("policy.json"));
            theirs.args(["copy", "--src-tls-verify=false", &remote, &format!("dir:{}", target.display())]);
            pairs.theirs.push(timed(theirs));
            fs::remove_dir_all(&target).unwrap();
        }
        Figure::ratio(name, "skopeo copy to dir:", &pairs, limit)
    }

    fn pull_for_a_boot(&self) -> Vec<Figure> {
        let image = self.reference("large-base");
        Layout::new(&self.world, "layout")
            .layer(&[bulk("base", 150, 1)])
            .layer(&boot_files())
            .push(&self.tools, &image);
        vec![self.pull("pull: for a boot, 150 MB base", &image, &[KERNEL, INITRD], 0.15)]
    }

    fn pull_of_everything(&self) -> Vec<Figure> {
        let image = self.reference("four-layers");
        let mut layout = Layout::new(&self.world, "layout");
        for seed in 1..=4 {
            layout = layout.layer(&[bulk("part", 60, seed)]);
        }
        layout.push(&self.tools, &image);
        vec![self.pull("pull: everything, 4 x 60 MB", &image, &[], 1.0)]
    }

    /// What `Always` costs when the tag has not moved: requests, and the time of the summary's `pull` phase.
    fn always(&self) -> Vec<Figure> {
        let image = self.reference("always");
        self.world.build_image(&image, "vmlinuz", &["--push"]);
        self.world.file("always.yaml", manifest("always", &image, "Always", "console=ttyS0 quiet"));
        let json = self.world.path("always.json");
        let output = format!("--output=json={}", json.display());
        timed(self.world.command(["run", "-f", "always.yaml"]));
        let (mut requests, mut milliseconds) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = self.registry.requests().len();
            timed(self.world.command(["run", "-f", "always.yaml", &output]));
            requests.push((self.registry.requests().len() - before) as f64);
            let summary: serde_json::Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
            let phases = summary["phases"].as_array().unwrap();
            let pull = phases.iter().find(|phase| phase["name"] == "pull").unwrap();
            milliseconds.push(pull["durationMs"].as_f64().unwrap());
        }
        vec![
            Figure::plain("always: requests, unchanged tag", "", requests, 1.0),
            Figure::plain("always: pull phase, unchanged tag", "ms", milliseconds, 10.0),
        ]
    }

    /// Peak memory of our process when it streamed 1 GB out of a layer and a guest runs.
    fn memory(&self) -> Vec<Figure> {
        let image = self.reference("gigabyte");
        let files: Vec<_> = [bulk("gigabyte", 1000, 9)].into_iter().chain(boot_files()).collect();
        Layout::new(&self.world, "layout").layer(&files).push(&self.tools, &image);
        self.world.file("memory.yaml", manifest("memory", &image, "Always", "console=ttyS0 guest=shell"));
        let mut command = self.world.command(["run", "--interactive", "-f", "memory.yaml", "--state-dir"]);
        command.arg(self.world.path("gigabyte-state"));
        let mut session = Session::start_with_input(command);
        session.wait_for_stdout("guest: shell is ready", 1);
        let status = fs::read_to_string(format!("/proc/{}/status", session.pid().as_raw_nonzero())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        let peak: f64 = peak.unwrap_or_else(|| panic!("no VmHWM in:\n{status}")).trim().parse().unwrap();
        session.type_line("poweroff");
        session.finish().expect_code(0);
        vec![Figure::plain("memory: peak after pulling 1 GB", "MiB", vec![peak / 1024.0], 30.0)]
    }

    fn size(&self) -> Vec<Figure> {
        let bytes = fs::metadata(env!("CARGO_BIN_EXE_ferrovirt")).unwrap().len();
        vec![Figure::plain("size: stripped release binary", "MB", vec![bytes as f64 / 1e6], 20.0)]
    }
}

fn main() -> ExitCode {
    thread::spawn(|| {
        thread::park_timeout(WATCHDOG);
        // Guests end with the processes that started them.
        let _ = writeln!(std::io::stderr(), "error: given up after {WATCHDOG:?}");
        std::process::exit(1);
    });
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let bench = Bench { world: World::new(), registry: RealRegistry::start(), tools: Tools::new() };
    type Measure = fn(&Bench) -> Vec<Figure>;
    let measures: [(&str, Measure); 6] = [
        ("size", Bench::size),
        ("boot", Bench::boots),
        ("pull", Bench::pull_for_a_boot),
        ("pull", Bench::pull_of_everything),
        ("always", Bench::always),
        ("memory", Bench::memory),
    ];
    let mut figures = Vec::new();
    for (name, measure) in measures.into_iter().filter(|(name, _)| name.contains(&filter)) {
        let _ = writeln!(std::io::stderr(), "measuring {name}");
        figures.extend(measure(&bench));
    }
    finish("results.json", ROUNDS, &figures)
}
