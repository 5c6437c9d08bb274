//! What goes into each layer, decided before a byte is written.
//!
//! Reads directories and file metadata, never contents. Every fault in the sources that can be seen without
//! reading them is found here, so that a build that fails has not touched the store. The result does not
//! depend on the order in which directories list their entries, on the umask of whoever made the files, nor
//! on their times: entries are sorted, modes are reduced to "may be executed or not", and times come from the
//! request.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{BuildError, BuildRequest, ImageTree};

/// Directories nested deeper than this are refused: no tree of kernel modules comes near it, and a bind mount
/// of a directory into itself does.
const MAX_DEPTH: usize = 64;

/// More entries than this in one image are refused; Debian's largest kernel has about 5,000 modules.
const MAX_ENTRIES: usize = 1_000_000;

/// Layer entries as the image format reads them begin with this where something is to be removed, so a file
/// of that name cannot be carried (OCI image specification, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// One layer: what it holds, sorted by path, parent directories included.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlannedLayer {
    /// Shown in the image's history.
    pub(super) description: String,
    pub(super) entries: Vec<Entry>,
}

/// One entry of a layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative to the image's root, without a leading slash.
    pub(super) path: PathBuf,
    pub(super) content: Content,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Directory,
    /// A copy of `source`, which had `size_bytes` when it was planned.
    File {
        source: PathBuf,
        size_bytes: u64,
    },
    /// The target is carried as it stands, whether anything is there or not.
    Symlink {
        target: PathBuf,
    },
}

/// Lays out the layers of `request`, the lowest first: trees, then files, each in a layer of its own, so that
/// what has not changed since the last build is not sent again.
///
/// # Errors
///
/// Whatever makes a source unusable: see [`BuildError`].
pub(super) fn plan(request: &BuildRequest) -> Result<Vec<PlannedLayer>, BuildError> {
    let mut taken = Taken::default();
    let mut layers = Vec::with_capacity(request.trees.len() + request.files.len());
    for tree in &request.trees {
        let destination = destination_path(&tree.destination, Root::Allowed)?;
        let mut entries = BTreeMap::new();
        walk_tree(tree, &destination, &mut entries)?;
        layers.push((format!("tree at /{}", destination.display()), entries));
    }
    for file in &request.files {
        let destination = destination_path(&file.destination, Root::Refused)?;
        let metadata = fs::metadata(&file.source)
            .map_err(|source| BuildError::Read { path: file.source.clone(), source })?;
        if !metadata.is_file() {
            return Err(BuildError::NotAFile {
                path: file.source.clone(),
                found: describe(metadata.file_type()),
            });
        }
        let description = format!("file /{}", destination.display());
        let entry = Entry {
            path: destination.clone(),
            content: Content::File { source: file.source.clone(), size_bytes: metadata.len() },
            mode: file.mode & 0o7777,
            uid: file.uid,
            gid: file.gid,
        };
        layers.push((description, BTreeMap::from([(destination, entry)])));
    }
    if layers.is_empty() {
        return Err(BuildError::NothingToCarry);
    }
    for (_, entries) in &layers {
        taken.claim(entries)?;
    }
    let layers = layers.into_iter().map(|(description, mut entries)| {
        add_parents(&mut entries);
        PlannedLayer { description, entries: entries.into_values().collect() }
    });
    Ok(layers.collect())
}

/// Whether the image's root itself may be the destination.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Root {
    Allowed,
    Refused,
}

/// Checks a destination and makes it relative to the image's root.
fn destination_path(destination: &str, root: Root) -> Result<PathBuf, BuildError> {
    let refuse = |reason| BuildError::Destination { destination: destination.to_owned(), reason };
    if !destination.starts_with('/') {
        return Err(refuse("it does not begin with `/`"));
    }
    if destination.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(refuse("it holds a control character"));
    }
    let mut path = PathBuf::new();
    for component in Path::new(destination).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) if is_whiteout(name) => {
                return Err(refuse("a name beginning with `.wh.` means removal in a layer"));
            }
            Component::Normal(name) => path.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(refuse("it holds `..`")),
        }
    }
    if root == Root::Refused {
        if path.as_os_str().is_empty() {
            return Err(refuse("it names the image's root, not a file"));
        }
        if destination.ends_with('/') {
            return Err(refuse("it ends with `/`, so it names a directory, not a file"));
        }
    }
    Ok(path)
}

fn is_whiteout(name: &OsStr) -> bool {
    name.as_bytes().starts_with(WHITEOUT_PREFIX)
}

/// Gathers what lies below `tree.source` under `destination`.
fn walk_tree(
    tree: &ImageTree,
    destination: &Path,
    entries: &mut BTreeMap<PathBuf, Entry>,
) -> Result<(), BuildError> {
    let read_error = |path: &Path, source| BuildError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(&tree.source).map_err(|source| read_error(&tree.source, source))?;
    if !metadata.is_dir() {
        let found = describe(metadata.file_type());
        return Err(BuildError::NotADirectory { path: tree.source.clone(), found });
    }
    if !destination.as_os_str().is_empty() {
        insert(entries, directory(destination, tree.uid, tree.gid))?;
    }
    // Breadth does not matter, the map sorts; depth is what has to be bounded.
    let mut pending = vec![(tree.source.clone(), destination.to_owned(), 0_usize)];
    while let Some((source, destination, depth)) = pending.pop() {
        if depth > MAX_DEPTH {
            return Err(BuildError::TooDeep { path: source, limit: MAX_DEPTH });
        }
        for listed in fs::read_dir(&source).map_err(|error| read_error(&source, error))? {
            let listed = listed.map_err(|error| read_error(&source, error))?;
            let path = listed.path();
            let name = listed.file_name();
            if is_whiteout(&name) {
                return Err(BuildError::WhiteoutName { path });
            }
            // `DirEntry::metadata` does not follow symbolic links.
            let metadata = listed.metadata().map_err(|error| read_error(&path, error))?;
            let kind = metadata.file_type();
            if depth == 0
                && kind.is_symlink()
                && tree.left_out_links.iter().any(|left_out| name == left_out.as_str())
            {
                continue;
            }
            let place = destination.join(&name);
            let entry = if kind.is_dir() {
                pending.push((path, place.clone(), depth + 1));
                directory(&place, tree.uid, tree.gid)
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(|error| read_error(&path, error))?;
                Entry {
                    path: place,
                    content: Content::Symlink { target },
                    mode: 0o777,
                    uid: tree.uid,
                    gid: tree.gid,
                }
            } else if kind.is_file() {
                let mode = if is_executable(&metadata) { 0o755 } else { 0o644 };
                let content = Content::File { source: path, size_bytes: metadata.len() };
                Entry { path: place, content, mode, uid: tree.uid, gid: tree.gid }
            } else {
                return Err(BuildError::SpecialFile { path, found: describe(kind) });
            };
            insert(entries, entry)?;
        }
    }
    Ok(())
}

fn insert(entries: &mut BTreeMap<PathBuf, Entry>, entry: Entry) -> Result<(), BuildError> {
    if entries.len() >= MAX_ENTRIES {
        return Err(BuildError::TooManyEntries { limit: MAX_ENTRIES });
    }
    entries.insert(entry.path.clone(), entry);
    Ok(())
}

fn is_executable(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o100 != 0
}

fn directory(path: &Path, uid: u32, gid: u32) -> Entry {
    Entry { path: path.to_owned(), content: Content::Directory, mode: 0o755, uid, gid }
}

/// Adds the directories above each entry that the layer does not hold yet, owned by root.
fn add_parents(entries: &mut BTreeMap<PathBuf, Entry>) {
    let missing: Vec<PathBuf> = entries
        .keys()
        .flat_map(|path| path.ancestors().skip(1))
        .filter(|ancestor| !ancestor.as_os_str().is_empty() && !entries.contains_key(*ancestor))
        .map(Path::to_owned)
        .collect();
    for path in missing {
        entries.entry(path).or_insert_with_key(|path| directory(path, 0, 0));
    }
}

/// Every path of the image so far, to refuse two sources for one place: in an image the upper layer would
/// silently win.
#[derive(Default)]
struct Taken {
    /// Each path with whether it is a directory; directories may be named by several layers.
    paths: BTreeMap<PathBuf, bool>,
}

impl Taken {
    fn claim(&mut self, entries: &BTreeMap<PathBuf, Entry>) -> Result<(), BuildError> {
        for entry in entries.values() {
            let is_directory = entry.content == Content::Directory;
            for parent in entry.path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                self.claim_one(parent, true)?;
            }
            self.claim_one(&entry.path, is_directory)?;
        }
        Ok(())
    }

    fn claim_one(&mut self, path: &Path, is_directory: bool) -> Result<(), BuildError> {
        match self.paths.get(path) {
            Some(true) if is_directory => Ok(()),
            Some(_) => Err(BuildError::Collision { path: Path::new("/").join(path) }),
            None => {
                self.paths.insert(path.to_owned(), is_directory);
                Ok(())
            }
        }
    }
}

fn describe(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_dir() {
        "a directory"
    } else if kind.is_file() {
        "a file"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "neither file nor directory"
    }
}
