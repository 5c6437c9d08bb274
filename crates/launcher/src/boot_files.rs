//! May QEMU read the files that an image brings, by the owner and mode bits that the image gives them?
//!
//! KubeVirt runs QEMU as user and group 107 (`qemu`) and changes no owner, so a kernel that 107 cannot read does not
//! boot there. The store here could serve it all the same, but an image that boots on one machine and not on a
//! cluster helps nobody: the mode bits decide here too.

use std::fmt;

/// User and group that KubeVirt runs QEMU as (`status.runtimeUser`).
pub const QEMU_ID: u32 = 107;

/// What a boot file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The file at `kernelPath`.
    Kernel,
    /// The file at `initrdPath`.
    Initrd,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Kernel => "kernel",
            Role::Initrd => "initrd",
        })
    }
}

/// A boot file as its image describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// What it is for.
    pub role: Role,
    /// The path in the image, symbolic links resolved.
    pub path: String,
    /// Owner in the image.
    pub uid: u32,
    /// Group in the image.
    pub gid: u32,
    /// Permission bits in the image (the low 12 bits of `st_mode`).
    pub mode: u32,
}

/// A boot file that QEMU may not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {role} `{path}` of the image is not readable by QEMU (107:107): it belongs to {uid}:{gid} with mode {mode:04o}"
)]
pub struct Unreadable {
    /// What the file is for.
    pub role: Role,
    /// The path in the image.
    pub path: String,
    /// Owner in the image.
    pub uid: u32,
    /// Group in the image.
    pub gid: u32,
    /// Permission bits in the image.
    pub mode: u32,
}

impl Unreadable {
    /// What the image's author can do.
    pub fn hint(&self) -> String {
        format!(
            "give it to QEMU when the image is built: `COPY --chown=107:107 … {path}` in the Containerfile, or \
             `chown qemu:qemu {path}` (or `chmod a+r {path}`) before the commit",
            path = self.path
        )
    }
}

/// Judges one file. `Ok(Some(warning))` where QEMU can read it without owning it.
///
/// # Errors
/// [`Unreadable`] when neither owner, group nor others of 107:107 have the read bit. As in the kernel, the first class
/// that applies decides: an owner without the read bit is refused even if others may read.
pub fn check_readable(file: &ImageFile) -> Result<Option<String>, Unreadable> {
    let read_bit = if file.uid == QEMU_ID {
        0o400
    } else if file.gid == QEMU_ID {
        0o040
    } else {
        0o004
    };
    if file.mode & read_bit == 0 {
        return Err(Unreadable {
            role: file.role,
            path: file.path.clone(),
            uid: file.uid,
            gid: file.gid,
            mode: file.mode & 0o7777,
        });
    }
    if file.uid == QEMU_ID && file.gid == QEMU_ID {
        return Ok(None);
    }
    Ok(Some(format!(
        "the {} `{}` of the image belongs to {}:{}, not to QEMU (107:107); it is readable, so it boots",
        file.role, file.path, file.uid, file.gid
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(uid: u32, gid: u32, mode: u32) -> ImageFile {
        ImageFile { role: Role::Kernel, path: "/boot/vmlinuz".into(), uid, gid, mode }
    }

    #[test]
    fn the_first_class_that_applies_decides() {
        for (uid, gid, mode, readable) in [
            (107, 107, 0o400, true),
            (107, 107, 0o044, false),
            (0, 107, 0o640, true),
            (0, 107, 0o604, false),
            (0, 0, 0o644, true),
            (0, 0, 0o640, false),
            (0, 0, 0o600, false),
            (1000, 1000, 0o004, true),
        ] {
            assert_eq!(check_readable(&file(uid, gid, mode)).is_ok(), readable, "{uid}:{gid} {mode:o}");
        }
    }

    #[test]
    fn only_a_file_of_107_107_passes_without_a_word() {
        assert_eq!(check_readable(&file(107, 107, 0o444)), Ok(None));
        let warning = check_readable(&file(0, 0, 0o644)).expect("readable").expect("warns");
        assert!(warning.contains("`/boot/vmlinuz`") && warning.contains("0:0"), "{warning}");
    }

    #[test]
    fn the_refusal_names_file_owner_mode_and_remedy() {
        let error = check_readable(&file(0, 0, 0o600)).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "the kernel `/boot/vmlinuz` of the image is not readable by QEMU (107:107): it belongs to 0:0 with mode 0600"
        );
        assert!(error.hint().contains("COPY --chown=107:107") && error.hint().contains("chown qemu:qemu"));
    }
}
