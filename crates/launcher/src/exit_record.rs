//! A machine's last status on disk: what its end was, for whoever looks later.
//!
//! Room for it is taken when the launcher starts, so that a disk which is full at the end cannot swallow the reason.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use manifest::machine_status::{MAX_TERMINATION_MESSAGE_BYTES, MachineStatus};
use rustix::fs::{FallocateFlags, fallocate};

/// Longest line of a panic's report that is kept, in bytes.
const MAX_TAIL_LINE_BYTES: usize = 256;

/// What a text of a status is cut to when the whole does not fit, in bytes, largest first.
const CUTS: [usize; 3] = [1024, 256, 64];

/// A place for the last status.
#[derive(Debug)]
pub struct ExitRecord {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl ExitRecord {
    /// Takes the room for a record at `path`. One that is there is of an earlier launcher, and stays until
    /// [`ExitRecord::write`].
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn reserve(path: &Path) -> io::Result<ExitRecord> {
        let temporary = path.with_extension("json.tmp");
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        match fallocate(&file, FallocateFlags::empty(), 0, MAX_TERMINATION_MESSAGE_BYTES as u64) {
            // A file system that cannot set room aside: the record is written all the same, if there is room then.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(ExitRecord { path: path.to_owned(), temporary, file })
    }

    /// Writes `status`, cut to fit, so that neither a crash nor a power failure leaves half of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(mut self, status: &MachineStatus) -> io::Result<()> {
        let text = serde_json::to_vec(&fitted(status.clone()))?;
        self.file.write_all(&text)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }
}

/// `status`, cut so that its JSON has at most [`MAX_TERMINATION_MESSAGE_BYTES`]: first what the guest says of its network
/// goes, then the oldest lines of a panic's report, then texts are shortened.
pub fn fitted(mut status: MachineStatus) -> MachineStatus {
    if let Some(panic) = &mut status.panic {
        panic.tail.iter_mut().for_each(|line| cut(line, MAX_TAIL_LINE_BYTES));
    }
    let mut excess = excess_bytes(&status);
    if excess > 0
        && let Some(agent) = &mut status.guest_agent
    {
        agent.interfaces.clear();
        excess = excess_bytes(&status);
    }
    if let Some(panic) = &mut status.panic {
        // Each line costs its JSON and a comma, in the length that is measured.
        let costs =
            panic.tail.iter().map(|line| serde_json::to_string(line).map_or(0, |json| json.len()) + 1);
        let gone = costs.scan(0, |freed, cost| {
            let before = *freed;
            *freed += cost;
            Some(before)
        });
        let count = gone.take_while(|freed| *freed < excess).count();
        panic.tail.drain(..count);
        excess = excess_bytes(&status);
    }
    for limit in CUTS {
        if excess == 0 {
            break;
        }
        texts(&mut status).for_each(|text| cut(text, limit));
        excess = excess_bytes(&status);
    }
    if excess > 0 {
        // Only with texts full of characters that JSON writes as six.
        status.boot = None;
        status.panic = None;
        status.guest_agent = None;
    }
    status
}

fn excess_bytes(status: &MachineStatus) -> usize {
    serde_json::to_vec(status).map_or(0, |json| json.len()).saturating_sub(MAX_TERMINATION_MESSAGE_BYTES)
}

fn texts(status: &mut MachineStatus) -> impl Iterator<Item = &mut String> {
    let MachineStatus {
        vmi_uid,
        sync_error,
        machine_type,
        accelerator,
        selinux_context,
        interfaces,
        warnings,
        boot,
        panic,
        ..
    } = status;
    let boot = boot.iter_mut().flat_map(|boot| {
        let files = [&mut boot.kernel, &mut boot.initrd].into_iter().flatten().map(|file| &mut file.path);
        [&mut boot.image, &mut boot.image_digest].into_iter().chain(&mut boot.kernel_version).chain(files)
    });
    let panic = panic.iter_mut().flat_map(|panic| panic.line.iter_mut().chain(&mut panic.tail));
    let single = [vmi_uid].into_iter().chain(sync_error).chain(machine_type).chain(accelerator);
    let names = interfaces.iter_mut().map(|interface| &mut interface.name);
    single.chain(selinux_context).chain(names).chain(warnings).chain(boot).chain(panic)
}

/// Cuts at a character's boundary, and shows that it did.
fn cut(text: &mut String, most_bytes: usize) {
    const MARK: &str = "…";
    if text.len() > most_bytes {
        let mut end = most_bytes - MARK.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use manifest::machine_status::{BootFacts, FileFacts, GuestPanic, MachineState, StateReason};
    use proptest::prelude::*;

    use super::*;

    fn panicked(lines: usize, line: &str) -> MachineStatus {
        MachineStatus {
            revision: 7,
            vmi_uid: "5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned(),
            state: MachineState::Crashed,
            reason: StateReason::Panicked,
            panic: Some(GuestPanic {
                at: 1,
                line: Some("Kernel panic - not syncing: x".to_owned()),
                tail: (0..lines).map(|number| format!("{number} {line}")).collect(),
            }),
            ..MachineStatus::default()
        }
    }

    #[test]
    fn what_fits_is_left_alone_and_of_more_the_last_lines_stay() {
        let small = panicked(30, "a line of a trace");
        assert_eq!(fitted(small.clone()), small);
        let large = panicked(30, &"x".repeat(200));
        let panic = fitted(large.clone()).panic.unwrap();
        assert_eq!(panic.line, large.panic.as_ref().unwrap().line);
        assert!((10..20).contains(&panic.tail.len()), "{}", panic.tail.len());
        assert_eq!(panic.tail.last(), large.panic.unwrap().tail.last());
    }

    #[test]
    fn the_record_replaces_an_older_one_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        std::fs::write(&path, "of an earlier launcher").unwrap();
        let record = ExitRecord::reserve(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "of an earlier launcher");
        let status = panicked(3, "line");
        record.write(&status).unwrap();
        assert_eq!(serde_json::from_slice::<MachineStatus>(&std::fs::read(&path).unwrap()).unwrap(), status);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_too_long(
            texts in prop::collection::vec(prop_oneof!["[\\x00-\\x1f]{0,3000}", "\\PC{0,3000}"], 6),
            tail in prop::collection::vec("[ -~\\x00]{0,600}", 0..30),
        ) {
            let file = FileFacts { path: texts[0].clone(), size_bytes: u64::MAX, checksum: u32::MAX };
            let status = MachineStatus {
                revision: u64::MAX,
                sync_error: Some(texts[1].clone()),
                boot: Some(BootFacts {
                    image: texts[2].clone(),
                    image_digest: texts[3].clone(),
                    kernel: Some(file.clone()),
                    kernel_version: Some(texts[4].clone()),
                    initrd: Some(file),
                }),
                panic: Some(GuestPanic { at: u64::MAX, line: Some(texts[5].clone()), tail }),
                reboots: u32::MAX,
                ..panicked(0, "")
            };
            let fitted = fitted(status.clone());
            let json = serde_json::to_vec(&fitted).unwrap();
            prop_assert!(json.len() <= MAX_TERMINATION_MESSAGE_BYTES, "{}", json.len());
            prop_assert_eq!(fitted.state, status.state);
            prop_assert_eq!(serde_json::from_slice::<MachineStatus>(&json).unwrap(), fitted);
        }
    }
}
