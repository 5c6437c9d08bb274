//! The named members of an archive that is to be loaded: a tar file, or a directory laid out alike.
//!
//! A tar file is walked once, header by header, noting where each member's bytes lie; they are read from
//! there when wanted, in any order and as often as needed. Nothing is ever unpacked under a name that the
//! archive chose.
//!
//! The walk is our own, because the archive comes from anywhere: the extensions that carry long names are
//! read into memory, so their size is bounded, and so is the number of members. A member that claims more
//! bytes than the file holds is a truncated archive. Sparse members are refused: their bytes are not their
//! content.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Tar's unit of everything.
const BLOCK_BYTES: u64 = 512;

/// Longest extension (a long name, PAX records) that is read.
const MAX_EXTENSION_BYTES: u64 = 64 * 1024;

/// Longest name of a member, or of what it links to; paths on Linux end there.
const MAX_NAME_BYTES: usize = 4096;

/// Most bytes of all names together: they are held in memory.
const MAX_NAMES_BYTES: usize = 16 << 20;

/// Most members of one archive; an image has two for each layer and a handful besides.
const MAX_MEMBERS: usize = 65_536;

/// Most links that are followed from one name.
const MAX_LINKS: usize = 16;

/// Why the members of an archive cannot be listed or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// Reading failed.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// The file is shorter than its headers say.
    #[error("the archive ends in the middle of member `{member}`")]
    Truncated {
        /// The member that is cut off.
        member: String,
    },
    /// Not a tar file, or damaged.
    #[error("the archive is not a tar file, or damaged at byte {offset_bytes}")]
    BadHeader {
        /// Where the header was expected.
        offset_bytes: u64,
    },
    /// Too many members.
    #[error("the archive holds more than {MAX_MEMBERS} members")]
    TooMany,
    /// A name that no file can have.
    #[error("the archive holds a name of {size_bytes} bytes, more than the {limit_bytes} allowed")]
    LongName {
        /// Length of the name.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Names that are too long together.
    #[error("the names in the archive take more than {MAX_NAMES_BYTES} bytes")]
    LongNames,
    /// A member in one of tar's sparse formats.
    #[error("member `{member}` of the archive is stored as a sparse file")]
    Sparse {
        /// The member.
        member: String,
    },
    /// A directory, device or the like where a file is needed.
    #[error("member `{member}` of the archive is not a regular file")]
    NotAFile {
        /// The member.
        member: String,
    },
    /// Links that lead to links.
    #[error("member `{member}` of the archive leads through more than {MAX_LINKS} links")]
    LinkLoop {
        /// The member.
        member: String,
    },
}

/// Members by name.
#[derive(Debug)]
pub(super) enum Members {
    /// A tar file.
    Tar(TarIndex),
    /// A directory whose files are the members.
    Directory(PathBuf),
}

impl Members {
    /// The member `name`, or `None` when there is none.
    ///
    /// # Errors
    ///
    /// When it is no regular file or cannot be opened.
    pub(super) fn open(&self, name: &str) -> Result<Option<Member>, MembersError> {
        match self {
            Self::Tar(index) => index.open(name),
            Self::Directory(directory) => open_in_directory(directory, name),
        }
    }
}

/// Names reach this only from a manifest or an index, so `..` must not lead out.
fn open_in_directory(directory: &Path, name: &str) -> Result<Option<Member>, MembersError> {
    let Some(name) = normalise(name, "") else {
        return Ok(None);
    };
    // Non-blocking, so that a named pipe is refused below and not waited for here.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(directory.join(&name));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MembersError::Read { source }),
    };
    let metadata = file.metadata().map_err(|source| MembersError::Read { source })?;
    if !metadata.is_file() {
        return Err(MembersError::NotAFile { member: name });
    }
    Ok(Some(Member { file, offset_bytes: 0, size_bytes: metadata.len(), position_bytes: 0 }))
}

/// The bytes of one member; reading starts at its beginning.
#[derive(Debug)]
pub(super) struct Member {
    file: File,
    offset_bytes: u64,
    size_bytes: u64,
    position_bytes: u64,
}

impl Member {
    /// How many bytes the member has in all.
    pub(super) const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Read for Member {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size_bytes - self.position_bytes;
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..wanted], self.offset_bytes + self.position_bytes)?;
        self.position_bytes += count as u64;
        Ok(count)
    }
}

/// Where the members of a tar file lie.
#[derive(Debug)]
pub(super) struct TarIndex {
    file: File,
    places: HashMap<String, Place>,
}

#[derive(Debug)]
enum Place {
    File {
        offset_bytes: u64,
        size_bytes: u64,
    },
    /// The normalised name of another member.
    Link {
        target: String,
    },
}

/// What extension headers said about the member that follows.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    is_sparse: bool,
}

impl TarIndex {
    /// Walks an uncompressed tar file.
    ///
    /// # Errors
    ///
    /// When it is damaged, truncated, or exceeds a bound.
    pub(super) fn new(file: File) -> Result<Self, MembersError> {
        let read_error = |source| MembersError::Read { source };
        let file_bytes = file.metadata().map_err(read_error)?.len();
        let mut places = HashMap::new();
        let mut names_bytes = 0;
        let mut extensions = Extensions::default();
        let mut offset_bytes = 0;
        loop {
            let mut block = [0_u8; BLOCK_BYTES as usize];
            if file_bytes - offset_bytes < BLOCK_BYTES {
                // Some writers leave the closing zero blocks out; then the file has to end with a member.
                if file_bytes == offset_bytes && !places.is_empty() {
                    break;
                }
                return Err(MembersError::BadHeader { offset_bytes });
            }
            file.read_exact_at(&mut block, offset_bytes).map_err(read_error)?;
            if block.iter().all(|byte| *byte == 0) {
                break;
            }
            let header = checked_header(&block).ok_or(MembersError::BadHeader { offset_bytes })?;
            let kind = header.entry_type();
            let size_bytes = match extensions.size_bytes {
                Some(size_bytes) if !is_extension(kind) => size_bytes,
                _ => header.entry_size().map_err(|_| MembersError::BadHeader { offset_bytes })?,
            };
            let name = extensions.name.clone().unwrap_or_else(|| header.path_bytes().into_owned());
            let name = String::from_utf8_lossy(&name).into_owned();
            let content_bytes = offset_bytes + BLOCK_BYTES;
            if size_bytes > file_bytes - content_bytes {
                return Err(MembersError::Truncated { member: name });
            }
            if is_extension(kind) {
                read_extension(&file, kind, content_bytes, size_bytes, &mut extensions)?;
            } else {
                if kind.is_gnu_sparse() || extensions.is_sparse {
                    return Err(MembersError::Sparse { member: name });
                }
                let link =
                    extensions.link.take().or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
                if let Some((name, place)) = place(kind, &name, link, content_bytes, size_bytes) {
                    if places.len() >= MAX_MEMBERS {
                        return Err(MembersError::TooMany);
                    }
                    names_bytes += checked_length(&name)?;
                    if let Place::Link { target } = &place {
                        names_bytes += checked_length(target)?;
                    }
                    if names_bytes > MAX_NAMES_BYTES {
                        return Err(MembersError::LongNames);
                    }
                    places.insert(name, place);
                }
                extensions = Extensions::default();
            }
            // The last member may lack its padding, which the test at the top of the loop then sees as the
            // end.
            offset_bytes = (content_bytes + size_bytes.next_multiple_of(BLOCK_BYTES)).min(file_bytes);
        }
        Ok(Self { file, places })
    }

    fn open(&self, name: &str) -> Result<Option<Member>, MembersError> {
        let Some(mut current) = normalise(name, "") else {
            return Ok(None);
        };
        for _ in 0..=MAX_LINKS {
            match self.places.get(&current) {
                None => return Ok(None),
                Some(Place::Link { target }) => current.clone_from(target),
                Some(Place::File { offset_bytes, size_bytes }) => {
                    let file = self.file.try_clone().map_err(|source| MembersError::Read { source })?;
                    let (offset_bytes, size_bytes) = (*offset_bytes, *size_bytes);
                    return Ok(Some(Member { file, offset_bytes, size_bytes, position_bytes: 0 }));
                }
            }
        }
        Err(MembersError::LinkLoop { member: name.to_owned() })
    }
}

/// The block as a header, when its checksum is right.
fn checked_header(block: &[u8; BLOCK_BYTES as usize]) -> Option<&tar::Header> {
    const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;
    let header = tar::Header::from_byte_slice(block);
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(index, byte)| if CHECKSUM_FIELD.contains(&index) { u32::from(b' ') } else { u32::from(*byte) })
        .sum();
    (header.cksum().ok()? == sum).then_some(header)
}

fn is_extension(kind: tar::EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn read_extension(
    file: &File,
    kind: tar::EntryType,
    offset_bytes: u64,
    size_bytes: u64,
    extensions: &mut Extensions,
) -> Result<(), MembersError> {
    // Global extensions carry defaults such as a comment; no writer of image archives names members in them.
    if kind.is_pax_global_extensions() {
        return Ok(());
    }
    if size_bytes > MAX_EXTENSION_BYTES {
        return Err(MembersError::LongName { size_bytes, limit_bytes: MAX_EXTENSION_BYTES });
    }
    let mut data = vec![0_u8; usize::try_from(size_bytes).expect("bounded just above")];
    file.read_exact_at(&mut data, offset_bytes).map_err(|source| MembersError::Read { source })?;
    if kind.is_pax_local_extensions() {
        for extension in tar::PaxExtensions::new(&data) {
            let Ok(extension) = extension else {
                return Err(MembersError::BadHeader { offset_bytes });
            };
            let value = extension.value_bytes();
            match extension.key_bytes() {
                b"path" => extensions.name = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    extensions.size_bytes = Some(size.ok_or(MembersError::BadHeader { offset_bytes })?);
                }
                key if key.starts_with(b"GNU.sparse.") => extensions.is_sparse = true,
                _ => {}
            }
        }
    } else {
        let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
        data.truncate(end);
        if kind.is_gnu_longname() {
            extensions.name = Some(data);
        } else {
            extensions.link = Some(data);
        }
    }
    Ok(())
}

/// The length of a name that is to be held.
fn checked_length(name: &str) -> Result<usize, MembersError> {
    if name.len() > MAX_NAME_BYTES {
        let (size_bytes, limit_bytes) = (name.len() as u64, MAX_NAME_BYTES as u64);
        return Err(MembersError::LongName { size_bytes, limit_bytes });
    }
    Ok(name.len())
}

/// What is worth noting of a member: files, and links to files under other names.
fn place(
    kind: tar::EntryType,
    name: &str,
    link: Option<Vec<u8>>,
    offset_bytes: u64,
    size_bytes: u64,
) -> Option<(String, Place)> {
    let name = normalise(name, "")?;
    if kind.is_file() || kind.is_contiguous() {
        return Some((name, Place::File { offset_bytes, size_bytes }));
    }
    let link = String::from_utf8(link?).ok()?;
    // A hard link counts from the archive's root, a symbolic one from the directory that it is in.
    let base = if kind.is_hard_link() {
        ""
    } else if kind.is_symlink() {
        name.rsplit_once('/').map_or("", |(directory, _)| directory)
    } else {
        return None;
    };
    let target = normalise(&link, base)?;
    Some((name, Place::Link { target }))
}

/// `name`, counted from the directory `base`, without `.`, `..` and doubled slashes. `None` when it is
/// absolute or leads out of the archive.
fn normalise(name: &str, base: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let mut components: Vec<&str> = base.split('/').filter(|component| !component.is_empty()).collect();
    for component in name.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            component => components.push(component),
        }
    }
    (!components.is_empty()).then(|| components.join("/"))
}

/// Opens a directory as members, or says that `path` is none.
pub(super) fn directory(path: &Path) -> Option<Members> {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()).then(|| Members::Directory(path.to_owned()))
}
