//! Paths in an image, over its layers.
//!
//! An image's root file system is what one gets by applying its layers from the lowest to the highest. Nobody does that
//! here: a path is followed element by element, and each element is looked up from the top layer down, until a layer
//! says what it is or says that lower layers do not count (a whiteout, an opaque directory, something other than a
//! directory in the way). The first layer that is needed and was not read yet ends the attempt; once
//! it is read, the attempt is made again. So a layer that cannot matter is never read.
//!
//! Symlinks are followed with the image's root as `/`; `..` at the root stays there. As in KubeVirt, no more than 256 path
//! elements are evaluated, those of symlink targets included.
//!
//! # Caveats
//!
//! Runtimes that unpack a layer write *through* a symlink when an archive has one and, later, something below it without an
//! entry that makes it a directory again (`lib -> usr/lib`, then `lib/modules/x`): the file lands in the target. Here it is
//! not found, neither under the link's name nor in the target. A lower layer's symlink in place of a directory that a
//! higher layer merely implies counts as replaced by that directory. Archivers that walk a file system write neither.

use std::collections::VecDeque;

use crate::layer::{EntryKind, EntryRecord, Fact, lexical};
use crate::store::StoreError;

mod near_misses;

pub(crate) use near_misses::NearMisses;

/// Path elements that are evaluated for one path; KubeVirt's limit.
pub const ELEMENT_LIMIT: usize = 256;

/// Bytes of a path with what is still to come of it, as Linux limits them (`PATH_MAX`).
const PATH_LIMIT_BYTES: usize = 4096;

/// Elements and bytes of paths that are asked about beyond the one in question, in case that no symlink is met.
const AHEAD_ELEMENTS: usize = 16;
const AHEAD_BYTES: usize = 16 << 10;

/// Hard links that lead to hard links before a file is reached. Archivers write one.
const HARD_LINK_LIMIT: usize = 16;

/// Why a path does not lead to a usable file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// It, or a directory on the way, is not there.
    #[error("`{missing}` does not exist in the image{}", listed(similar))]
    NotFound {
        /// The first path on the way that is missing, after symlinks.
        missing: String,
        /// Paths in the image that the user may have meant, the likeliest first, at most five.
        similar: Vec<String>,
    },
    /// Something on the way is no directory.
    #[error("`{path}` is not a directory in the image")]
    NotDirectory {
        /// What was to be entered.
        path: String,
    },
    /// It is a directory.
    #[error("`{path}` is a directory in the image")]
    Directory {
        /// Where it led.
        path: String,
    },
    /// It is neither file nor directory.
    #[error("`{path}` is {kind} in the image")]
    Special {
        /// Where it led.
        path: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// Symlinks lead in a circle, or it is absurdly long.
    #[error("more than {ELEMENT_LIMIT} path elements evaluated")]
    TooManyElements,
    /// It, or what symlinks make of it, is longer than any path of Linux.
    #[error("more than {PATH_LIMIT_BYTES} bytes of path evaluated")]
    TooLong,
    /// A hard link to something that its layer does not have.
    #[error("`{path}` is a hard link to `{target}`, which is not in the same layer")]
    HardLink {
        /// Where it led.
        path: String,
        /// The target of the link.
        target: String,
    },
    /// Its content is condensed.
    #[error("`{path}` is stored as a sparse file, which is not supported")]
    Sparse {
        /// Where it led.
        path: String,
    },
    /// It is larger than files that are taken out of images may be.
    #[error("`{path}` has {size_bytes} bytes, more than {limit_bytes}")]
    TooLarge {
        /// Where it led.
        path: String,
        /// Its length.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

/// For the message of a missing path.
fn listed(similar: &[String]) -> String {
    if similar.is_empty() {
        return String::new();
    }
    let names: Vec<String> = similar.iter().map(|path| format!("`{path}`")).collect();
    format!("; similar: {}", names.join(", "))
}

impl ResolveError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { similar, .. } if similar.is_empty() => {
                Some("check the path, and that the image was built with the file".to_owned())
            }
            Self::NotFound { similar, .. } => similar.first().map(|path| format!("did you mean `{path}`?")),
            Self::NotDirectory { path } => {
                Some(format!("check the path: only a directory has something below it, and `{path}` is none"))
            }
            Self::Directory { .. } | Self::Special { .. } => Some("name a regular file".to_owned()),
            Self::TooManyElements => {
                Some("check the symbolic links on the way in the image: they lead in a circle".to_owned())
            }
            Self::TooLong | Self::HardLink { .. } => {
                Some("the image is broken or hostile: build and push it again".to_owned())
            }
            Self::Sparse { .. } => {
                Some("build the layer without sparse files (GNU tar without `--sparse`)".to_owned())
            }
            Self::TooLarge { .. } => {
                Some("name a smaller file: kernels and initrds are far below that".to_owned())
            }
        }
    }
}

/// Either the path is wrong, or the store failed.
#[derive(Debug)]
pub(crate) enum ResolveFailure {
    Path(ResolveError),
    Store(StoreError),
}

impl From<ResolveError> for ResolveFailure {
    fn from(error: ResolveError) -> Self {
        Self::Path(error)
    }
}

impl From<StoreError> for ResolveFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What layers say, the top one being number 0.
pub(crate) trait LayerFacts {
    /// How many layers there are.
    fn layer_count(&self) -> usize;

    /// What a layer says about these paths, in their order; `None` when the layer was not read yet.
    fn facts(&mut self, layer: usize, paths: &[Vec<u8>]) -> Result<Option<Vec<Fact>>, StoreError>;
}

/// Where a path leads, as far as that can be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    /// To this regular file.
    Found {
        layer: usize,
        /// The entry that has the content, so never a hard link.
        entry: EntryRecord,
        /// The path after symlinks, normalised.
        resolved: Vec<u8>,
    },
    /// That depends on this layer.
    NeedLayer {
        layer: usize,
        /// Where the file is if no further symlink is met.
        candidate: Vec<u8>,
    },
}

/// What is at one path whose parent is known to be a directory.
enum Lookup {
    Missing,
    Directory,
    Other { layer: usize, entry: EntryRecord },
    NeedLayer(usize),
}

/// Follows a path of the image.
pub(crate) fn resolve(
    path: &str,
    layers: &mut impl LayerFacts,
    file_limit_bytes: u64,
) -> Result<Resolution, ResolveFailure> {
    let mut remaining: VecDeque<Vec<u8>> = elements(path.as_bytes()).collect();
    let mut resolved: Vec<Vec<u8>> = Vec::new();
    let mut evaluated = 0;
    check_length(&resolved, &remaining)?;
    while let Some(element) = remaining.pop_front() {
        evaluated += 1;
        if evaluated > ELEMENT_LIMIT {
            return Err(ResolveError::TooManyElements.into());
        }
        match element.as_slice() {
            b"." => continue,
            b".." => {
                resolved.pop();
                continue;
            }
            _ => resolved.push(element),
        }
        let (layer, entry) = match lookup(&resolved, &remaining, layers)? {
            Lookup::Directory => continue,
            Lookup::Missing => {
                return Err(
                    ResolveError::NotFound { missing: display(&resolved), similar: Vec::new() }.into()
                );
            }
            Lookup::NeedLayer(layer) => {
                let rest: Vec<&[u8]> = resolved.iter().chain(&remaining).map(Vec::as_slice).collect();
                return Ok(Resolution::NeedLayer { layer, candidate: lexical(&rest) });
            }
            Lookup::Other { layer, entry } => (layer, entry),
        };
        let entry = follow_hard_links(layer, entry, &resolved, layers)?;
        if entry.kind == EntryKind::Symlink {
            resolved.pop();
            if entry.link.starts_with(b"/") {
                resolved.clear();
            }
            for element in elements(&entry.link).collect::<Vec<_>>().into_iter().rev() {
                remaining.push_front(element);
            }
            check_length(&resolved, &remaining)?;
            continue;
        }
        if !remaining.is_empty() {
            return Err(ResolveError::NotDirectory { path: display(&resolved) }.into());
        }
        check_file(&entry, &resolved, file_limit_bytes)?;
        return Ok(Resolution::Found { layer, entry, resolved: resolved.join(&b'/') });
    }
    Err(ResolveError::Directory { path: display(&resolved) }.into())
}

fn elements(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|element| !element.is_empty()).map(<[u8]>::to_vec)
}

/// Bounds what one path may take of this machine's memory.
fn check_length(resolved: &[Vec<u8>], remaining: &VecDeque<Vec<u8>>) -> Result<(), ResolveError> {
    let length: usize = resolved.iter().chain(remaining).map(|element| element.len() + 1).sum();
    if length > PATH_LIMIT_BYTES { Err(ResolveError::TooLong) } else { Ok(()) }
}

/// A path as people write it.
pub(crate) fn display(elements: &[Vec<u8>]) -> String {
    format!("/{}", String::from_utf8_lossy(&elements.join(&b'/')))
}

/// The root, and every path on the way to the last of these elements.
fn prefixes(elements: &[Vec<u8>]) -> Vec<Vec<u8>> {
    (0..=elements.len()).map(|count| elements[..count].join(&b'/')).collect()
}

/// Looks up a path, all of whose directories are known to be directories and no symlinks.
fn lookup(
    path: &[Vec<u8>],
    remaining: &VecDeque<Vec<u8>>,
    layers: &mut impl LayerFacts,
) -> Result<Lookup, StoreError> {
    let depth = path.len();
    // Asked together with what will be asked next if no symlink is met: an index is read once for all of them.
    let ahead = remaining.iter().take_while(|element| !matches!(element.as_slice(), b"." | b".."));
    let mut whole = path.to_vec();
    let mut length = path.iter().map(|element| element.len() + 1).sum::<usize>();
    let mut ahead_bytes = 0;
    for element in ahead.take(AHEAD_ELEMENTS) {
        length += element.len() + 1;
        ahead_bytes += length;
        if ahead_bytes > AHEAD_BYTES {
            break;
        }
        whole.push(element.clone());
    }
    let queries = prefixes(&whole);
    let mut is_directory = vec![false; depth + 1];
    is_directory[0] = true;
    for layer in 0..layers.layer_count() {
        let Some(facts) = layers.facts(layer, &queries)? else {
            return Ok(Lookup::NeedLayer(layer));
        };
        let mut lower_layers_count = !facts[0].is_opaque;
        for at in 1..=depth {
            let fact = &facts[at];
            match &fact.entry {
                Some(entry) if entry.kind != EntryKind::Directory => {
                    if is_directory[at] {
                        // Replaced by the directory of a higher layer, with everything below.
                        lower_layers_count = false;
                        break;
                    }
                    return Ok(Lookup::Other { layer, entry: entry.clone() });
                }
                Some(_) => is_directory[at] = true,
                None => is_directory[at] |= fact.is_implied_directory,
            }
            if at == depth && is_directory[at] {
                return Ok(Lookup::Directory);
            }
            if fact.is_whiteout || fact.is_opaque {
                lower_layers_count = false;
            }
        }
        if !lower_layers_count {
            return Ok(Lookup::Missing);
        }
    }
    Ok(Lookup::Missing)
}

/// The entry that has the content of a hard link; it is in the same layer (OCI image specification, "Hardlinks").
fn follow_hard_links(
    layer: usize,
    mut entry: EntryRecord,
    path: &[Vec<u8>],
    layers: &mut impl LayerFacts,
) -> Result<EntryRecord, ResolveFailure> {
    for _ in 0..HARD_LINK_LIMIT {
        if entry.kind != EntryKind::HardLink {
            return Ok(entry);
        }
        let facts = layers.facts(layer, std::slice::from_ref(&entry.link))?.unwrap_or_default();
        let target = facts.into_iter().next().and_then(|fact| fact.entry);
        match target {
            Some(target) if target.kind != EntryKind::Directory => entry = target,
            _ => {
                let target = format!("/{}", String::from_utf8_lossy(&entry.link));
                return Err(ResolveError::HardLink { path: display(path), target }.into());
            }
        }
    }
    let target = format!("/{}", String::from_utf8_lossy(&entry.link));
    Err(ResolveError::HardLink { path: display(path), target }.into())
}

fn check_file(entry: &EntryRecord, path: &[Vec<u8>], limit_bytes: u64) -> Result<(), ResolveError> {
    let special = |kind| Err(ResolveError::Special { path: display(path), kind });
    match entry.kind {
        EntryKind::CharacterDevice => special("a character device"),
        EntryKind::BlockDevice => special("a block device"),
        EntryKind::Fifo => special("a named pipe"),
        EntryKind::Sparse => Err(ResolveError::Sparse { path: display(path) }),
        _ if entry.size_bytes > limit_bytes => {
            Err(ResolveError::TooLarge { path: display(path), size_bytes: entry.size_bytes, limit_bytes })
        }
        _ => Ok(()),
    }
}

/// Whether a path, taken without following symlinks, is there and is no directory. Layers that were not read count as
/// empty.
fn is_visible(path: &[Vec<u8>], layers: &mut impl LayerFacts) -> Result<bool, StoreError> {
    let found = lookup(path, &VecDeque::new(), layers)?;
    // It may be something above that is found, a symlink for instance, which the path then does not lead through.
    Ok(matches!(found, Lookup::Other { entry, .. } if entry.path == path.join(&b'/')))
}

#[cfg(test)]
mod tests;
